//! What lines in a test's own process share: a CA in SoftHSM, a product, and the line that makes it.

use dps_station::bay::{CaKey, Line, LineProduct};
use dps_station::hsm::{Hsm, HsmOptions};
use dps_station::ledger::{Ledger, Options};
use dps_station::link::{Injection, of_product};
use dps_station::provision::bytes::{Blob, Digest};
use dps_station::provision::certificate::{CaProfile, Issuer, Profile, draft_issuing, draft_root};
use dps_station::provision::device::{Attestation, SerialNumber};
use dps_station::provision::endorsement::{EndorsementPolicy, VendorRoots};
use dps_station::provision::event::Reservation;
use dps_station::provision::product::{DpsTarget, Product, SigningCa};
use dps_station::signing::SigningKey;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tempfile::TempDir;

/// The product's limit for one step, unless a test has its own.
pub const STEP_DEADLINE: Duration = Duration::from_secs(30);

/// A CA, and the product that it signs for.
pub struct Plant {
    pub signer: CaKey,
    pub product: Arc<Product>,
    /// What the CA itself was made from.
    pub reserved: [Reservation; 2],
}

impl Plant {
    /// Makes a CA in a token, for a product of this model.
    pub async fn open(module: PathBuf, token: &str, pin: &str, model: &str) -> Self {
        let options = HsmOptions {
            module,
            token: token.to_owned(),
            pin: pin.to_owned().into(),
        };
        let hsm = Hsm::open(options).await.unwrap();
        let root_key = hsm.find_or_make_key("root").await.unwrap();
        let key = hsm.find_or_make_key("issuing").await.unwrap();
        let serial = |number| SerialNumber::from_random([number; SerialNumber::OCTETS]);
        let profile = CaProfile {
            common_name: "SIMULATED CA".to_owned(),
            organization: None,
            validity_days: 7000,
        };
        let now = clock(); // the same for both, which have the same number of days
        let folder = TempDir::new().unwrap();
        let ledger = ledger(&folder.path().join("ca.sqlite"));
        let signer = SigningKey {
            hsm: &hsm,
            label: "root",
            public_key: &root_key,
        };
        let root = draft_root("ca", &root_key, &profile, serial(1), now).unwrap();
        let root_der = signer.certificate(root.clone(), &ledger).await.unwrap();
        let root_issuer = Issuer::parse("ca", &root_der).unwrap();
        let issuing = draft_issuing(&root_issuer, &key, &profile, serial(2), now).unwrap();
        let issuing_der = signer.certificate(issuing.clone(), &ledger).await.unwrap();
        ledger.close().await.unwrap();
        Self {
            signer: CaKey {
                hsm,
                label: "issuing".to_owned(),
                issuer: Arc::new(Issuer::parse("ca", &issuing_der).unwrap()),
            },
            product: Arc::new(product(model, root_der, issuing_der)),
            reserved: [root, issuing],
        }
    }

    /// A line that makes the product.
    pub fn line(&self, ledger: Ledger, step_deadline: Duration) -> Line {
        Line {
            ledger,
            products: vec![LineProduct {
                product: Arc::clone(&self.product),
                driver: of_product(Injection::default(), &self.product.model),
                signer: Some(self.signer.clone()),
                step_deadline,
            }],
            present: Mutex::new(BTreeMap::new()),
            loopback: Default::default(),
            clock,
        }
    }
}

/// A ledger in this file.
pub fn ledger(path: &Path) -> Ledger {
    let options = Options {
        path: path.to_owned(),
        station: "S1".to_owned(),
        clock,
        progress: |_| {},
        max_pages: None,
    };
    Ledger::open(options).unwrap()
}

/// Milliseconds since 1970.
pub fn clock() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    i64::try_from(now.as_millis()).unwrap()
}

/// A product of devices with certificates.
pub fn product(model: &str, root: Vec<u8>, issuing: Vec<u8>) -> Product {
    Product {
        name: "gateway".to_owned(),
        model: model.to_owned(),
        firmware: Vec::new(),
        usb: Vec::new(),
        naming: Default::default(),
        attestation: Some(Attestation::X509),
        endpoint_readback: Default::default(),
        value_limit: 253,
        ca: Some(SigningCa {
            name: "ca".to_owned(),
            issuing: Blob(issuing),
            root: Blob(root),
        }),
        profile: Profile::default(),
        dps: DpsTarget {
            name: "main".to_owned(),
            id_scope: "0ne00112233".to_owned(),
            global_endpoint: "global.azure-devices-provisioning.net".to_owned(),
        },
        initial_desired: None,
        initial_tags: None,
        content: Default::default(),
        line: "line".to_owned(),
        endorsement: EndorsementPolicy::default(),
        empty_handle: Default::default(),
        vendor_roots: Arc::new(VendorRoots::read(&[])),
        digest: Some(Digest::of(b"product")),
    }
}
