//! The vendor roots: which TPM makers are trusted, and the search for a path to one of them.
//!
//! Invariant: a path that is found was checked link by link: names, signature, validity, the right to issue.

use super::certificate::sequence_length;
use super::chained::{ChainCertificate, said};
use crate::provision::bytes::Digest;
use crate::provision::fault::{EkFlaw, Fault, harmless};
use std::collections::BTreeSet;

/// Most certificates between an EK certificate and its anchor.
const INTERMEDIATES_MAX: u32 = 4;

/// Most signatures checked for one EK certificate; bundles have a few CAs of one name, never dozens.
const SIGNATURES_MAX: u32 = 64;

/// Most intermediates taken from one TPM.
const CARRIED_MAX: usize = 8;

/// Most certificates taken from one set of files.
const CERTIFICATES_MAX: usize = 10_000;

/// One file of the vendor roots.
pub struct RootFile {
    /// Its path below the configured folder, or its name.
    pub name: String,
    /// Its content: one DER certificate, or PEM with any number of them and comments between.
    pub bytes: Vec<u8>,
}

/// The TPM makers that are trusted: anchors (a name and a key, self-signed or not) and the intermediates below them.
pub struct VendorRoots {
    anchors: Vec<ChainCertificate>,
    intermediates: Vec<ChainCertificate>,
    refused: Vec<RefusedRoot>,
    releases: Vec<Release>,
    digest: Digest,
}

/// A certificate, or a file, that is not used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedRoot {
    /// Which: file, and the certificate's number or comment in it.
    pub entry: String,
    /// Why.
    pub flaw: EkFlaw,
}

/// What the header of a trust bundle says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Release {
    /// The file.
    pub file: String,
    /// The bundle's date, as it is spelt there.
    pub date: String,
    /// The commit that the bundle was made from.
    pub commit: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Anchor,
    Intermediate,
}

impl VendorRoots {
    /// Reads trust bundles (PEM) and vendor folders (DER and PEM). What cannot be used is kept in
    /// [`refused`](Self::refused) and changes nothing else.
    ///
    /// A file is a set of intermediates if its path, or a `##` header line of the bundle, has the word
    /// `intermediate` in it; all else are anchors.
    pub fn read(files: &[RootFile]) -> Self {
        let mut roots = Self {
            anchors: Vec::new(),
            intermediates: Vec::new(),
            refused: Vec::new(),
            releases: Vec::new(),
            digest: Digest::of(&[]),
        };
        let mut seen = BTreeSet::new();
        for file in files {
            let pem = std::str::from_utf8(&file.bytes)
                .ok()
                .filter(|text| text.contains(PEM_BEGIN));
            let role = role(file, pem);
            roots
                .releases
                .extend(pem.and_then(|text| release(&file.name, text)));
            match pem {
                Some(text) => {
                    for block in pem_blocks(&file.name, text) {
                        let (entry, der) = block;
                        roots.take(role, entry, der, &mut seen);
                    }
                }
                None => roots.take(role, file.name.clone(), Ok(file.bytes.clone()), &mut seen),
            }
        }
        let digests: Vec<u8> = seen
            .into_iter()
            .flat_map(|(role, digest)| std::iter::once(role).chain(digest.0))
            .collect();
        roots.digest = Digest::of(&digests);
        roots
    }

    /// How many anchors are trusted.
    pub fn anchors(&self) -> usize {
        self.anchors.len()
    }

    /// How many intermediates can stand between an anchor and an EK certificate.
    pub fn intermediates(&self) -> usize {
        self.intermediates.len()
    }

    /// What was not taken, and why.
    pub fn refused(&self) -> &[RefusedRoot] {
        &self.refused
    }

    /// Date and commit of the bundles that say them.
    pub fn releases(&self) -> &[Release] {
        &self.releases
    }

    /// SHA-256 over role and SHA-256 of every certificate taken, in sorted order: the same set has the same
    /// digest, whatever files it is kept in.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Names of the certificates that are not valid at `now` (seconds since 1970); no path uses them.
    pub fn not_valid_at(&self, now: i64) -> impl Iterator<Item = &str> {
        let all = self.anchors.iter().chain(&self.intermediates);
        all.filter(move |link| !link.is_valid_at(now))
            .map(|link| link.name.as_str())
    }

    /// The intermediates that lead to no anchor at `now`, and why: of no use, and worth a word at preflight.
    pub fn dangling(&self, now: i64) -> Vec<(&str, Fault)> {
        let paths = self.intermediates.iter();
        paths
            .filter_map(|link| Some((link.name.as_str(), self.anchor_of(link, &[], now).err()?)))
            .collect()
    }

    /// Finds a path from `leaf` to an anchor, over the intermediates here and those `carried`, which nothing is
    /// trusted for; gives the anchor's name, else the most telling reason.
    pub(super) fn anchor_of<'a>(
        &'a self,
        leaf: &ChainCertificate,
        carried: &'a [ChainCertificate],
        now: i64,
    ) -> Result<&'a str, Fault> {
        let mut search = Search {
            roots: self,
            carried,
            now,
            signatures_left: SIGNATURES_MAX,
            reason: None,
        };
        let found = search.climb(leaf, 0);
        let unknown = || Fault::EkCertificateUnknownMaker {
            issuer: leaf.issuer_name.clone(),
        };
        found
            .map(|anchor| anchor.name.as_str())
            .ok_or_else(|| search.reason.unwrap_or_else(unknown))
    }

    fn take(
        &mut self,
        role: Role,
        entry: String,
        der: Result<Vec<u8>, EkFlaw>,
        seen: &mut BTreeSet<(u8, Digest)>,
    ) {
        match der.and_then(|der| usable(role, &der).map(|link| (link, Digest::of(&der)))) {
            Ok(_) if seen.len() >= CERTIFICATES_MAX => {
                let flaw = EkFlaw::TooMany(CERTIFICATES_MAX);
                self.refused.push(RefusedRoot { entry, flaw });
            }
            Ok((link, digest)) => {
                if seen.insert((role as u8, digest)) {
                    match role {
                        Role::Anchor => self.anchors.push(link),
                        Role::Intermediate => self.intermediates.push(link),
                    }
                }
            }
            Err(flaw) => self.refused.push(RefusedRoot { entry, flaw }),
        }
    }
}

/// One search for a path, with its bounds and the most telling reason so far.
struct Search<'a> {
    roots: &'a VendorRoots,
    carried: &'a [ChainCertificate],
    now: i64,
    signatures_left: u32,
    reason: Option<Fault>,
}

impl<'a> Search<'a> {
    /// Goes from `child` upwards; `below` intermediates were passed.
    fn climb(&mut self, child: &ChainCertificate, below: u32) -> Option<&'a ChainCertificate> {
        let roots = self.roots;
        for anchor in &roots.anchors {
            if self.issued(anchor, child) {
                return Some(anchor);
            }
        }
        if below == INTERMEDIATES_MAX {
            return None;
        }
        for intermediate in roots.intermediates.iter().chain(self.carried) {
            let room = intermediate
                .authority
                .is_some_and(|right| right.path_length.is_none_or(|most| below <= most));
            if room && self.issued(intermediate, child) {
                if let Some(anchor) = self.climb(intermediate, below + 1) {
                    return Some(anchor);
                }
                let unknown = Fault::EkCertificateUnknownMaker {
                    issuer: intermediate.issuer_name.clone(),
                };
                self.reason.get_or_insert(unknown);
            }
        }
        None
    }

    fn issued(&mut self, issuer: &ChainCertificate, child: &ChainCertificate) -> bool {
        if issuer.subject != child.issuer || self.signatures_left == 0 {
            return false;
        }
        self.signatures_left -= 1;
        if !child.is_signed_by(issuer) {
            self.reason.get_or_insert(Fault::EkCertificateBadSignature {
                issuer: issuer.name.clone(),
            });
            return false;
        }
        match issuer.check_validity(Some(&issuer.name), self.now) {
            Ok(()) => true,
            Err(fault) => {
                self.reason = Some(fault);
                false
            }
        }
    }
}

/// The intermediates that a TPM carries: DER certificates one after the other, with padding between. What cannot be
/// parsed is skipped: it could only have helped.
pub(super) fn carried(chain: &[u8]) -> Vec<ChainCertificate> {
    let mut links = Vec::new();
    let mut rest = chain;
    while links.len() < CARRIED_MAX {
        let padding = rest.iter().take_while(|&&byte| byte == 0 || byte == 0xff);
        rest = &rest[padding.count()..];
        let Some((der, behind)) =
            sequence_length(rest).and_then(|length| rest.split_at_checked(length))
        else {
            break;
        };
        links.extend(usable(Role::Intermediate, der));
        rest = behind;
    }
    links
}

const PEM_BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const PEM_END: &str = "-----END CERTIFICATE-----";

fn usable(role: Role, der: &[u8]) -> Result<ChainCertificate, EkFlaw> {
    let link = ChainCertificate::parse(der)?;
    if !link.has_known_key() {
        return Err(EkFlaw::OtherKey);
    }
    if role == Role::Anchor {
        return Ok(link);
    }
    if !link.has_known_signature() {
        return Err(EkFlaw::OtherSignature);
    }
    if link.authority.is_none() {
        return Err(EkFlaw::NoAuthority);
    }
    match &link.unknown_critical {
        Some(oid) => Err(EkFlaw::UnknownCritical(oid.clone())),
        None => Ok(link),
    }
}

fn role(file: &RootFile, pem: Option<&str>) -> Role {
    let says = |text: &str| text.to_ascii_lowercase().contains("intermediate");
    let mut header = pem.into_iter().flat_map(header_lines);
    if says(&file.name) || header.any(says) {
        Role::Intermediate
    } else {
        Role::Anchor
    }
}

fn header_lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines()
        .take_while(|line| !line.starts_with(PEM_BEGIN))
        .filter_map(|line| line.strip_prefix("##"))
}

fn release(file: &str, text: &str) -> Option<Release> {
    let find = |key: &str| {
        header_lines(text)
            .find_map(|line| line.trim().strip_prefix(key))
            .map(|value| harmless(value.trim(), 64))
    };
    Some(Release {
        file: file.to_owned(),
        date: find("Date:")?,
        commit: find("Commit:")?,
    })
}

/// Each PEM block with its name: the file, its number, and the comment before it.
fn pem_blocks(file: &str, text: &str) -> Vec<(String, Result<Vec<u8>, EkFlaw>)> {
    let blocks = text.split(PEM_BEGIN).collect::<Vec<_>>();
    let pairs = blocks.iter().zip(blocks.iter().skip(1));
    pairs
        .enumerate()
        .map(|(index, (before, block))| {
            let comment = before
                .lines()
                .rev()
                .find_map(|line| line.strip_prefix("# Certificate:"))
                .unwrap_or_default();
            let name = format!("{file}: certificate {} {}", index + 1, comment.trim());
            let der = block
                .split_once(PEM_END)
                .ok_or(EkFlaw::CutShort)
                .and_then(|(base64, _)| {
                    let packed: Vec<u8> = base64
                        .bytes()
                        .filter(|b| !b.is_ascii_whitespace())
                        .collect();
                    data_encoding::BASE64
                        .decode(&packed)
                        .map_err(|e| EkFlaw::NotBase64(said(&e)))
                });
            (harmless(name.trim_end(), 200), der)
        })
        .collect()
}
