//! A TPM simulator's two ports on loopback, for the TSS in this process to connect to, and for nobody else.
//!
//! The protocol is the one of the TCG reference simulator as tpm2-tss speaks it (`tcti-mssim.c`, tpm2-tss 3.2.1). The TSS keeps one
//! data and one platform connection for its life: both are accepted once, then the listeners are closed. Another local
//! process that connects in the millisecond before makes the run fail, and could send no more than the allowed commands.

use super::wire::{SIZES, Wire};
use super::{Relay, TpmError};
use std::io;
use std::net::Ipv4Addr;
use std::str::FromStr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tss_esapi::tcti_ldr::{NetworkTPMConfig, TctiNameConf};

/// How often a pair of neighbouring free ports is looked for.
const PORT_TRIES: usize = 100;

/// MS_SIM_TPM_SEND_COMMAND.
const SEND_COMMAND: u32 = 8;
/// TPM_SESSION_END.
const SESSION_END: u32 = 20;

/// The two listeners, not yet connected to.
pub(super) struct Bridge {
    data: TcpListener,
    platform: TcpListener,
    conf: TctiNameConf,
}

impl Bridge {
    /// Binds two neighbouring ports on loopback: the TSS finds the platform port at the data port plus one.
    pub(super) async fn bind() -> Result<Self, TpmError> {
        let failed = |e: io::Error| TpmError::Bridge(e.to_string());
        for _ in 0..PORT_TRIES {
            let data = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
                .await
                .map_err(failed)?;
            let port = data.local_addr().map_err(failed)?.port();
            let Some(next) = port.checked_add(1) else {
                continue;
            };
            let Ok(platform) = TcpListener::bind((Ipv4Addr::LOCALHOST, next)).await else {
                continue;
            };
            let conf = NetworkTPMConfig::from_str(&format!("host=127.0.0.1,port={port}"))
                .map_err(|e| TpmError::Bridge(e.to_string()))?;
            return Ok(Self {
                data,
                platform,
                conf: TctiNameConf::Mssim(conf),
            });
        }
        Err(TpmError::Bridge(
            "no two neighbouring ports are free".to_owned(),
        ))
    }

    /// What the TSS is to connect to.
    pub(super) fn tcti(&self) -> TctiNameConf {
        self.conf.clone()
    }

    /// Serves one TSS context until it closes its connections. Dropping the future closes everything.
    pub(super) async fn serve<R: Relay>(self, wire: &mut Wire<'_, R>) -> Result<(), TpmError> {
        let connected = tokio::try_join!(self.data.accept(), self.platform.accept());
        let ((data, _), (platform, _)) = connected.map_err(broken)?;
        drop((self.data, self.platform));
        tokio::select! {
            served = serve_data(data, wire) => served,
            served = serve_platform(platform) => served,
        }
    }
}

/// Data port: u32 8, u8 locality, u32 size, command; answered by u32 size, response, u32 0. All big-endian.
async fn serve_data<R: Relay>(mut data: TcpStream, wire: &mut Wire<'_, R>) -> Result<(), TpmError> {
    data.set_nodelay(true).map_err(broken)?;
    loop {
        let mut kind = [0; 4];
        if !fill(&mut data, &mut kind).await? {
            return Ok(());
        }
        match u32::from_be_bytes(kind) {
            SEND_COMMAND => {}
            SESSION_END => return Ok(()),
            other => return Err(TpmError::Bridge(format!("unknown request {other}"))),
        }
        let mut head = [0; 5]; // locality, size
        let mut command = match fill(&mut data, &mut head).await? {
            true => vec![0; u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize],
            false => return Ok(()),
        };
        if !SIZES.contains(&command.len()) {
            let why = format!("a command of {} bytes", command.len());
            return Err(TpmError::Bridge(why));
        }
        if !fill(&mut data, &mut command).await? {
            return Ok(());
        }
        let answer = wire.transact(command).await?;
        let size = u32::try_from(answer.len()).expect("a response has at most 4096 bytes");
        let framed = [&size.to_be_bytes()[..], &answer, &[0; 4]].concat();
        data.write_all(&framed).await.map_err(broken)?;
    }
}

/// Platform port: every u32 request (power on, NV on, cancel) is answered by u32 0.
async fn serve_platform(mut platform: TcpStream) -> Result<(), TpmError> {
    platform.set_nodelay(true).map_err(broken)?;
    let mut request = [0; 4];
    while fill(&mut platform, &mut request).await? {
        platform.write_all(&[0; 4]).await.map_err(broken)?;
    }
    Ok(())
}

/// Fills `buffer`, or says that the other end has closed.
///
/// The TSS sends header and command in two writes without TCP_NODELAY: without a quick acknowledgement each command
/// waits 40 ms. The option does not last, so it is set before every read.
async fn fill(stream: &mut TcpStream, buffer: &mut [u8]) -> Result<bool, TpmError> {
    let mut filled = 0;
    while filled < buffer.len() {
        stream.set_quickack(true).map_err(broken)?;
        match stream.read(&mut buffer[filled..]).await {
            Ok(0) => return Ok(false),
            Ok(read) => filled += read,
            Err(e) if e.kind() == io::ErrorKind::ConnectionReset => return Ok(false),
            Err(e) => return Err(broken(e)),
        }
    }
    Ok(true)
}

fn broken(error: io::Error) -> TpmError {
    TpmError::Bridge(error.to_string())
}
