//! Reads the files of the vendor roots: a PEM trust bundle, or a folder of certificates, nested.

use super::TpmError;
use crate::provision::endorsement::{RootFile, VendorRoots};
use std::io::Read;
use std::path::Path;

/// Endings of the files that are read in a folder; all others are skipped.
const ENDINGS: [&str; 4] = ["pem", "crt", "cer", "der"];

/// Largest file read, in bytes.
const FILE_MAX: u64 = 8 << 20;

/// Most files read.
const FILES_MAX: usize = 5_000;

/// Deepest folder entered.
const DEPTH_MAX: usize = 6;

/// Reads all vendor roots at `path`, a file or a folder. What cannot be used is named in the result; only a path
/// that cannot be read at all, or beyond the bounds of this module, is an error.
pub fn load(path: &Path) -> Result<VendorRoots, TpmError> {
    let mut files = Vec::new();
    collect(path, path, 0, &mut files)?;
    Ok(VendorRoots::read(&files))
}

fn collect(
    top: &Path,
    path: &Path,
    depth: usize,
    files: &mut Vec<RootFile>,
) -> Result<(), TpmError> {
    let failed = |why: String| TpmError::Roots {
        path: path.to_owned(),
        why,
    };
    if !path.is_dir() {
        if files.len() == FILES_MAX {
            return Err(failed(format!("is more than {FILES_MAX} files")));
        }
        let bytes = read(path).map_err(|e| failed(e.to_string()))?;
        let name = path
            .strip_prefix(top)
            .ok()
            .filter(|p| !p.as_os_str().is_empty());
        let name = name.or(path.file_name().map(Path::new)).unwrap_or(path);
        files.push(RootFile {
            name: name.display().to_string(),
            bytes,
        });
        return Ok(());
    }
    if depth > DEPTH_MAX {
        return Err(failed(format!("is more than {DEPTH_MAX} folders deep")));
    }
    let entries = std::fs::read_dir(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let mut entries: Vec<_> = entries
        .map_err(|e| failed(e.to_string()))?
        .iter()
        .map(std::fs::DirEntry::path)
        .collect();
    entries.sort();
    for entry in entries {
        let ending = entry.extension().and_then(|ending| ending.to_str());
        let wanted = ending.is_some_and(|e| ENDINGS.contains(&e.to_ascii_lowercase().as_str()));
        if entry.is_dir() || wanted {
            collect(top, &entry, depth + 1, files)?;
        }
    }
    Ok(())
}

fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)?
        .take(FILE_MAX + 1)
        .read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_MAX {
        let why = format!("has more than {FILE_MAX} bytes");
        return Err(std::io::Error::new(std::io::ErrorKind::FileTooLarge, why));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_folder_is_read_nested_and_what_is_no_certificate_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = |name: &str| {
            let mut params = rcgen::CertificateParams::default();
            let common_name = rcgen::DnType::CommonName;
            params.distinguished_name.push(common_name, name);
            params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
            params.self_signed(&key).unwrap()
        };
        let write = |name: &str, bytes: &[u8]| {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        };
        write("A/RootCA/a.CER", certificate("a").der());
        write("A/IntermediateCA/b.crt", certificate("b").pem().as_bytes());
        write("B/RootCA/c.der", b"no certificate");
        write("B/readme.txt", b"nothing");
        let roots = load(dir.path()).unwrap();
        assert_eq!((roots.anchors(), roots.intermediates()), (1, 1));
        assert_eq!(roots.refused().len(), 1);
        assert_eq!(roots.refused()[0].entry, "B/RootCA/c.der");
        assert!(load(&dir.path().join("absent")).is_err());
    }
}
