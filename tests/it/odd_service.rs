//! A TLS server that gives every request the same answer, whatever that is.

use rustls::ServerConfig;
use rustls::pki_types::PrivatePkcs8KeyDer;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

/// Runs until it is dropped.
pub struct OddService {
    port: u16,
    dir: TempDir,
    task: JoinHandle<()>,
}

impl OddService {
    /// Starts it on a free port of this machine; `answer` is all that it ever says, from its status line on.
    pub async fn start(answer: String) -> Self {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let dir = TempDir::new().unwrap();
        std::fs::write(dir.path().join("ca.pem"), made.cert.pem()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
        let tls = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key.into())
            .unwrap();
        let tls = TlsAcceptor::from(Arc::new(tls));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let _ = answered(&tls, stream, &answer).await; // a client may hang up when it likes
            }
        });
        Self { port, dir, task }
    }

    /// Where it is.
    pub fn url(&self) -> String {
        format!("https://localhost:{}", self.port)
    }

    /// What its clients must trust.
    pub fn ca_file(&self) -> PathBuf {
        Path::new(self.dir.path()).join("ca.pem")
    }
}

impl Drop for OddService {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// An answer with this status, these headers and this body.
pub fn answer(status: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
}

async fn answered(tls: &TlsAcceptor, stream: TcpStream, answer: &str) -> io::Result<()> {
    let mut stream = BufReader::new(tls.accept(stream).await?);
    let mut body = 0;
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await?;
        match line.trim_end().to_ascii_lowercase().split_once(':') {
            Some(("content-length", length)) => body = length.trim().parse().unwrap(),
            None if line.trim_end().is_empty() => break,
            _ => {}
        }
    }
    stream.read_exact(&mut vec![0; body]).await?;
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await
}
