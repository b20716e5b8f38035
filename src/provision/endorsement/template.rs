//! Public areas of TPM keys: the endorsement key and the storage root key, parsed from `TPM2B_PUBLIC`.
//!
//! Invariant: an [`EndorsementKey`] has, bit for bit, the TCG's RSA-2048 template L-1; a [`StorageKey`] is an
//! RSA-2048 key that other keys can be wrapped to.

use crate::provision::bytes::{Blob, Digest};
use crate::provision::fault::Encoding;
pub use crate::provision::fault::TemplateFault;
use data_encoding::HEXLOWER;

/// Octets of an RSA-2048 modulus.
pub const MODULUS_OCTETS: usize = 256;

/// The TCG's RSA-2048 template L-1 as `TPMT_PUBLIC`, up to and without `unique` (TCG EK Credential Profile for
/// TPM 2.0, annex B.3.3): RSA, SHA-256, attributes, policy A, AES-128-CFB, no scheme, 2048 bits, default exponent.
pub const EK_TEMPLATE: [u8; 56] = [
    0x00, 0x01, 0x00, 0x0b, 0x00, 0x03, 0x00, 0xb2, 0x00, 0x20, 0x83, 0x71, 0x97, 0x67, 0x44, 0x84,
    0xb3, 0xf8, 0x1a, 0x90, 0xcc, 0x8d, 0x46, 0xa5, 0xd7, 0x24, 0xfd, 0x52, 0xd7, 0x6e, 0x06, 0x52,
    0x0b, 0x64, 0xf2, 0xa1, 0xda, 0x1b, 0x33, 0x14, 0x69, 0xaa, 0x00, 0x06, 0x00, 0x80, 0x00, 0x43,
    0x00, 0x10, 0x08, 0x00, 0x00, 0x00, 0x00, 0x00,
];

/// The storage root key that Microsoft's clients make, as `TPMT_PUBLIC` up to and without `unique`: like the EK,
/// with attributes 0x00030472 and no policy (azure-iot-sdk-c, `hsm_client_tpm.c`).
pub const SRK_TEMPLATE: [u8; 24] = [
    0x00, 0x01, 0x00, 0x0b, 0x00, 0x03, 0x04, 0x72, 0x00, 0x00, 0x00, 0x06, 0x00, 0x80, 0x00, 0x43,
    0x00, 0x10, 0x08, 0x00, 0x00, 0x00, 0x00, 0x00,
];

/// An endorsement key as DPS wants it: `TPM2B_PUBLIC` of the TCG template L-1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndorsementKey(StorageKey);

/// A restricted RSA-2048 decryption key, of whatever other attributes: what credentials and keys are wrapped to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StorageKey {
    tpm2b: Blob,
    modulus: [u8; MODULUS_OCTETS],
}

impl EndorsementKey {
    /// Parses `TPM2B_PUBLIC`; says which template another key has, or in what it differs from L-1.
    pub fn parse(bytes: &[u8]) -> Result<Self, TemplateFault> {
        let area = Area::parse(bytes)?;
        let rsa = area.expect_endorsement()?;
        Ok(Self(StorageKey::new(bytes, rsa)))
    }

    /// The key as a target for wrapping.
    pub fn storage(&self) -> &StorageKey {
        &self.0
    }

    /// The exact bytes, size field included.
    pub fn tpm2b(&self) -> &Blob {
        &self.0.tpm2b
    }
}

impl StorageKey {
    /// Parses `TPM2B_PUBLIC` of a storage root key.
    pub fn parse(bytes: &[u8]) -> Result<Self, TemplateFault> {
        let area = Area::parse(bytes)?;
        let rsa = area.expect_storage()?;
        Ok(Self::new(bytes, rsa))
    }

    fn new(bytes: &[u8], modulus: [u8; MODULUS_OCTETS]) -> Self {
        Self {
            tpm2b: Blob(bytes.to_vec()),
            modulus,
        }
    }

    /// The exact bytes, size field included.
    pub fn tpm2b(&self) -> &Blob {
        &self.tpm2b
    }

    /// The modulus, big-endian, its top bit set.
    pub fn modulus(&self) -> &[u8; MODULUS_OCTETS] {
        &self.modulus
    }

    /// The TPM's name of the key: SHA-256's algorithm identifier and the digest of `TPMT_PUBLIC`, which is the
    /// public area without its size (TPM 2.0 library, part 1, "Names").
    pub fn name(&self) -> Vec<u8> {
        name_of(&self.tpm2b.0[2..])
    }

    /// The key as DER SubjectPublicKeyInfo, with the exponent 65537.
    pub fn spki(&self) -> Vec<u8> {
        let rsa = yasna::construct_der(|w| {
            w.write_sequence(|w| {
                w.next().write_bigint_bytes(&self.modulus, true);
                w.next().write_u32(65537);
            });
        });
        yasna::construct_der(|w| {
            w.write_sequence(|w| {
                w.next().write_sequence(|w| {
                    let rsa_encryption = [1, 2, 840, 113_549, 1, 1, 1];
                    w.next()
                        .write_oid(&yasna::models::ObjectIdentifier::from_slice(
                            &rsa_encryption,
                        ));
                    w.next().write_null();
                });
                w.next().write_bitvec_bytes(&rsa, rsa.len() * 8);
            });
        })
    }
}

/// The name of an object with the SHA-256 name algorithm, from its `TPMT_PUBLIC`.
pub(super) fn name_of(tpmt_public: &[u8]) -> Vec<u8> {
    let mut name = vec![0x00, 0x0b];
    name.extend_from_slice(&Digest::of(tpmt_public).0);
    name
}

const ALG_RSA: u16 = 0x0001;
const ALG_SHA256: u16 = 0x000b;
const ALG_NULL: u16 = 0x0010;
const ALG_ECC: u16 = 0x0023;
/// `restricted` and `decrypt`.
const STORAGE_ATTRIBUTES: u32 = 0x0003_0000;
const EK_ATTRIBUTES: u32 = 0x0003_00b2;
/// AES, 128 bits, CFB.
const AES_128_CFB: [u16; 3] = [0x0006, 0x0080, 0x0043];
/// Policy B of the TCG's high-range templates, with SHA-256 and with SHA-384 (first eight octets are enough to tell).
const POLICY_B: [[u8; 8]; 2] = [
    [0xca, 0x3d, 0x0a, 0x99, 0xa2, 0xb9, 0x39, 0x06],
    [0xb2, 0x6e, 0x7d, 0x28, 0xd1, 0x1a, 0x50, 0xbc],
];

/// The fields of `TPMT_PUBLIC` that all key types share, and those of the two asymmetric ones.
struct Area<'a> {
    name_algorithm: u16,
    attributes: u32,
    policy: &'a [u8],
    key: Key<'a>,
}

enum Key<'a> {
    Rsa {
        symmetric: [u16; 3],
        scheme: u16,
        bits: u16,
        exponent: u32,
        modulus: &'a [u8],
    },
    Ecc {
        curve: u16,
    },
}

impl<'a> Area<'a> {
    fn parse(bytes: &'a [u8]) -> Result<Self, TemplateFault> {
        let body = body(bytes)?;
        let mut fields = Fields(body);
        let kind = fields.u16()?;
        let name_algorithm = fields.u16()?;
        let attributes = fields.u32()?;
        let policy = fields.sized()?;
        let key = match kind {
            ALG_RSA => {
                let (symmetric, scheme) = fields.symmetric_and_scheme()?;
                Key::Rsa {
                    symmetric,
                    scheme,
                    bits: fields.u16()?,
                    exponent: fields.u32()?,
                    modulus: fields.sized()?,
                }
            }
            ALG_ECC => {
                fields.symmetric_and_scheme()?;
                let curve = fields.u16()?;
                return Ok(Self {
                    name_algorithm,
                    attributes,
                    policy,
                    key: Key::Ecc { curve },
                });
            }
            _ => return Err(TemplateFault::Encoding(Encoding::OtherAlgorithm)),
        };
        if !fields.0.is_empty() {
            return Err(TemplateFault::Encoding(Encoding::Trailing));
        }
        Ok(Self {
            name_algorithm,
            attributes,
            policy,
            key,
        })
    }

    fn expect_endorsement(&self) -> Result<[u8; MODULUS_OCTETS], TemplateFault> {
        if let Some(known) = self.other_template() {
            return Err(known);
        }
        expect_word("objectAttributes", EK_ATTRIBUTES, self.attributes)?;
        let policy = &EK_TEMPLATE[10..42];
        if self.policy != policy {
            return Err(TemplateFault::Differs {
                field: "authPolicy".to_owned(),
                expected: HEXLOWER.encode(policy),
                found: HEXLOWER.encode(self.policy),
            });
        }
        if let Key::Rsa { exponent, .. } = self.key {
            // 65537 spelt out is the same key, but other bytes, and so another enrollment and registration ID.
            expect_word("exponent", 0, exponent)?;
        }
        self.expect_storage()
    }

    fn expect_storage(&self) -> Result<[u8; MODULUS_OCTETS], TemplateFault> {
        let Key::Rsa {
            symmetric,
            scheme,
            bits,
            exponent,
            modulus,
        } = &self.key
        else {
            return Err(TemplateFault::OtherTemplate(None));
        };
        expect_word("nameAlg", ALG_SHA256.into(), self.name_algorithm.into())?;
        let restricted_decrypt = self.attributes & STORAGE_ATTRIBUTES;
        expect_word("objectAttributes", STORAGE_ATTRIBUTES, restricted_decrypt)?;
        for (expected, found) in AES_128_CFB.iter().zip(symmetric) {
            expect_word("symmetric", (*expected).into(), (*found).into())?;
        }
        expect_word("scheme", ALG_NULL.into(), (*scheme).into())?;
        expect_word("keyBits", 2048, (*bits).into())?;
        if ![0, 65537].contains(exponent) {
            expect_word("exponent", 0, *exponent)?;
        }
        <[u8; MODULUS_OCTETS]>::try_from(*modulus)
            .ok()
            .filter(|m| m[0] >= 0x80 && m[MODULUS_OCTETS - 1] & 1 == 1)
            .ok_or(TemplateFault::Encoding(Encoding::Modulus))
    }

    fn other_template(&self) -> Option<TemplateFault> {
        let policy_b = POLICY_B.iter().any(|start| self.policy.starts_with(start));
        let name = match &self.key {
            Key::Ecc { curve: 0x0003 } if policy_b => "ECC P-256 with policy B (H-2)",
            Key::Ecc { curve: 0x0003 } => "ECC P-256 (L-2)",
            Key::Ecc { curve: 0x0004 } => "ECC P-384 (H-3)",
            Key::Ecc { curve: 0x0005 } => "ECC P-521 (H-4)",
            Key::Ecc { .. } => return Some(TemplateFault::OtherTemplate(None)),
            Key::Rsa { bits: 3072, .. } => "RSA-3072 (H-6)",
            Key::Rsa { bits: 4096, .. } => "RSA-4096 (H-7)",
            Key::Rsa { .. } if policy_b => "RSA-2048 with policy B (H-1)",
            Key::Rsa { .. } if self.attributes == 0x0003_0472 => {
                return Some(TemplateFault::StorageRootKey);
            }
            Key::Rsa { .. } => return None,
        };
        Some(TemplateFault::OtherTemplate(Some(name.to_owned())))
    }
}

/// Takes the size off, or says what else the bytes are.
fn body(bytes: &[u8]) -> Result<&[u8], TemplateFault> {
    if bytes.starts_with(b"-----BEGIN") {
        return Err(TemplateFault::Encoding(Encoding::Pem));
    }
    if bytes.starts_with(&[0x30, 0x82]) || bytes.starts_with(&[0x30, 0x59]) {
        return Err(TemplateFault::Encoding(Encoding::Der));
    }
    if bytes.starts_with(&[0x00, 0x01, 0x00, 0x0b]) || bytes.starts_with(&[0x00, 0x23, 0x00, 0x0b])
    {
        return Err(TemplateFault::Encoding(Encoding::WithoutSize));
    }
    let (size, body) = bytes
        .split_first_chunk::<2>()
        .ok_or(TemplateFault::Encoding(Encoding::Empty))?;
    let said = usize::from(u16::from_be_bytes(*size));
    if said != body.len() {
        return Err(TemplateFault::Size {
            said,
            found: body.len(),
        });
    }
    Ok(body)
}

fn expect_word(field: &'static str, expected: u32, found: u32) -> Result<(), TemplateFault> {
    if expected == found {
        return Ok(());
    }
    Err(TemplateFault::Differs {
        field: field.to_owned(),
        expected: format!("{expected:#x}"),
        found: format!("{found:#x}"),
    })
}

/// Reads big-endian fields off the front.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], TemplateFault> {
        let (taken, rest) = self
            .0
            .split_first_chunk::<N>()
            .ok_or(TemplateFault::Encoding(Encoding::CutShort))?;
        self.0 = rest;
        Ok(*taken)
    }

    fn u16(&mut self) -> Result<u16, TemplateFault> {
        Ok(u16::from_be_bytes(self.take()?))
    }

    fn u32(&mut self) -> Result<u32, TemplateFault> {
        Ok(u32::from_be_bytes(self.take()?))
    }

    fn sized(&mut self) -> Result<&'a [u8], TemplateFault> {
        let size = usize::from(self.u16()?);
        let (taken, rest) = self
            .0
            .split_at_checked(size)
            .ok_or(TemplateFault::Encoding(Encoding::CutShort))?;
        self.0 = rest;
        Ok(taken)
    }

    /// `TPMT_SYM_DEF_OBJECT`, which is only an algorithm where that is NULL, and the scheme's algorithm.
    fn symmetric_and_scheme(&mut self) -> Result<([u16; 3], u16), TemplateFault> {
        let algorithm = self.u16()?;
        let symmetric = match algorithm {
            ALG_NULL => [ALG_NULL, 0, 0],
            _ => [algorithm, self.u16()?, self.u16()?],
        };
        let scheme = self.u16()?;
        if scheme != ALG_NULL {
            self.u16()?; // the scheme's hash
        }
        Ok((symmetric, scheme))
    }
}

/// A published EK, for tests.
#[cfg(test)]
pub(super) use tests::published;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::provision::device::RegistrationId;
    use data_encoding::BASE64;
    use proptest::prelude::*;

    const PREFIX: &str =
        "AToAAQALAAMAsgAgg3GXZ0SEs/gakMyNRqXXJP1S124GUgtk8qHaGzMUaaoABgCAAEMAEAgAAAAAAAEA";

    /// EKs published in Microsoft's documentation, tools and tests, and their registration IDs.
    const PUBLISHED: [(&str, &str); 5] = [
        (
            "opqgkUBwtpr1sCgVJcEZxsJtpmtOAt9K7SjGFe4hsp6DJ/dd2E5UFzBC+Jp8Fzqf5ukRBkqrAgIuAvHRsruIedk1uarJSLhbDpFLHxFd7iDNcYfrvdgVNT2T9zrvkh2y04WuRQg2D5qf0tZF82jeTjR/YJK7uWhaRwWOwZ3b1XD9l6wFOrwK/Ic0PEsjneFXQzL0n9uKyuHmHNz+wHppmOiMAabvnXXEin9ou7/iowY/+YhFm3j7atsVvxMI5HEM3Mq+W4imUuzPxVX7fZH+oWPKP5ofpWBTf+MdttGby1AjGnv8JE69JriOYoZG2/4qbsfv9M7a7NFrBlaW7Rt36w==",
            "6rek5qncnygnkzflohxz4u6zlfly6ktm4klsc7xrbgvesqyllnfa",
        ),
        (
            "xsj2gUScTk1UjuioeTlfGYZrrimExB+bScH75adUMRIi2UOMxG1kw4y+9RW/IVoMl4e620VxZad0ARX2gUqVjYO7KPVt3dyKhZS3dkcvfBisBhP1XH9B33VqHG9SHnbnQXdBUaCgKAfxome8UmBKfe+naTsE5fkvjb/do3/dD6l4sGBwFCnKRdln4XpM03zLpoHFao8zOwt8l/uP3qUIxmCYv9A7m69Ms+5/pCkTu/rK4mRDsfhZ0QLfbzVI6zQFOKF/rwsfBtFeWlWtcuJMKlXdD8TXWElTzgh7JS4qhFzreL0c1mI0GCj+Aws0usZh7dLIVPnlgZcBhgy1SSDQMQ==",
            "sizmf6sllrqe4op4wm576nl26la72rssxmf7i7oag2fbuy7uvbaq",
        ),
        (
            "tW6MOyCu/Nih47atIIoZtlYkhLeCTiSrtRN3q6hqgOllA979No4BOcDWF90OyzJvjQknMfXS/Dx/IJIBnORgCg1YX/j4EEtO7Ase29Xd63HjvG8M94+u2XINu79rkTxeueqW7gPeRZQPnl1xYmqawYcyzJS6GKWKdoIdS+UWu6bJr58V3xwvOQI4NibXKD7htvz07jLItWTFhsWnTdZbJ7PnmfCa2vbRH/9pZIow+CcAL9mNTNNN4FdzYwapNVO+6SY/W4XU0Q+dLMCKYarqVNH5GzAWDfKT8nKzg69yQejJM8oeUWag/8odWOfbszA+iFjw3wVNrA5n8grUieRkPQ==",
            "7mhs52lgzanjvwclzmzxcbbxu4ec4o7haqjlu5s23pd4yqbwnlmq",
        ),
        (
            "tKEADl/sNRgmYAjP6gXmbccRaJoTnVixisUaek0OwAzFGN70xt9ZOYp6fhIwfcft3fdVKOrKpXYcTe72CGNkGJGlQz5ti9n2pQ0uJhcX8aefh4Onm7lVlUCQAVp1K0r6zI8vkEXWsBIvwvxk0eMJbFaq146kbTkJHIGczb89RkFH2TX+CgXeZOG9oXQzUNwktmTUacspamune5Wywc/ce8HsDFYchyUHogFhrZ/LPnzyTDXO8sSC5z5dvsUBtUME3iRYDyKgZOfBtmRMqQewD+4iH+ZEJjtsyJiWR8hFhyKROnOuqXfNFwjd5IcNU4wtlKO0cLyXmTOfQK6Da1pr5Q==",
            "y5wivfciikcievvnsbpkhzcahwm4chuzx6v4hnqnlqfs3fjf6rxa",
        ),
        (
            "ibym9HQP9vxCGF5dVc1QQsAGe021aUGJzNol1/gycBx3jFsTpwmWbISRwnFvflWd0w2Mc44FAAZNaJOAAxwZvG8GvyLlHh6fGKdh+mSBL4iLH2bZ4Ry22cB3CJVjXmdGoz9Y/j3/NwLndBxQC+baNvzvyVQZ4/A2YL7vzIIj2ik4y+ve9ir7U0GbNdnxskqK1KFIITVVtkTIYyyFTIR0BySjPrRIDj7r7Mh5uF9HBppGKQCBoVSVV8dI91lNazmSdpGWyqCkO7iM4VvUMv2HT/ym53aYlUrau+Qq87Tu+uQipWYgRdF11KDfcpMHqqzBQQ1NpOJVhrsTrhyJzO7KNw==",
            "t6t2cg5vnzscr7ty546hj7c7maamkggectqcxkccq637z5bvlnoa",
        ),
    ];

    /// The first published EK.
    pub fn published() -> Vec<u8> {
        BASE64
            .decode(format!("{PREFIX}{}", PUBLISHED[0].0).as_bytes())
            .unwrap()
    }

    #[test]
    fn published_keys_parse_and_have_their_published_registration_ids() {
        for (tail, id) in PUBLISHED {
            let bytes = BASE64.decode(format!("{PREFIX}{tail}").as_bytes()).unwrap();
            let key = EndorsementKey::parse(&bytes).unwrap();
            assert_eq!(key.tpm2b().0, bytes);
            assert_eq!(RegistrationId::of_endorsement_key(&bytes).as_str(), id);
        }
    }

    #[test]
    fn the_template_is_the_start_of_every_such_key() {
        let bytes = published();
        assert_eq!(bytes[2..58], EK_TEMPLATE);
    }

    #[test]
    fn other_keys_are_named() {
        let said = |bytes: &[u8]| EndorsementKey::parse(bytes).unwrap_err();
        let encoding = TemplateFault::Encoding;
        let good = published();
        assert_eq!(said(&good[2..]), encoding(Encoding::WithoutSize));
        let pem = b"-----BEGIN PUBLIC KEY-----";
        assert_eq!(said(pem), encoding(Encoding::Pem));
        let spki = StorageKey::parse(&good).unwrap().spki();
        assert_eq!(said(&spki), encoding(Encoding::Der));
        let (size, found) = (314, 198);
        let short = TemplateFault::Size { said: size, found };
        assert_eq!(said(&good[..200]), short);

        let differs = |field: &str, expected: &str, found: &str| TemplateFault::Differs {
            field: field.to_owned(),
            expected: expected.to_owned(),
            found: found.to_owned(),
        };
        let mut exponent = good.clone();
        exponent[54..58].copy_from_slice(&65537_u32.to_be_bytes());
        assert_eq!(said(&exponent), differs("exponent", "0x0", "0x10001"));
        let other = |name: &str| TemplateFault::OtherTemplate(Some(name.to_owned()));
        let mut policy_b = good.clone();
        policy_b[12..20].copy_from_slice(&POLICY_B[0]);
        assert_eq!(said(&policy_b), other("RSA-2048 with policy B (H-1)"));
        let mut attributes = good.clone();
        attributes[9] = 0xf2;
        let found = differs("objectAttributes", "0x300b2", "0x300f2");
        assert_eq!(said(&attributes), found);

        let ecc = "007a0023000b000300b20020837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa00060080004300100003001000200000000000000000000000000000000000000000000000000000000000000000002000000000000000000000000000000000000000000000000000000000000000";
        let mut ecc = HEXLOWER.decode(format!("{ecc}00").as_bytes()).unwrap();
        let size = u16::try_from(ecc.len() - 2).unwrap();
        ecc[..2].copy_from_slice(&size.to_be_bytes());
        assert_eq!(said(&ecc), other("ECC P-256 (L-2)"));

        let mut srk = vec![0x01, 0x1a];
        srk.extend_from_slice(&SRK_TEMPLATE);
        srk.extend_from_slice(&good[58..]);
        assert!(StorageKey::parse(&srk).is_ok());
        assert_eq!(said(&srk), TemplateFault::StorageRootKey);
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = EndorsementKey::parse(&bytes);
        }

        #[test]
        fn a_changed_head_is_never_taken(at in 0_usize..60, by in 1_u8..) {
            let mut bytes = published();
            bytes[at] ^= by;
            prop_assert!(EndorsementKey::parse(&bytes).is_err());
        }
    }
}
