//! One software TPM for one test, and the line to it with at most one thing wrong.

use dps_station::fixtures::device::Tpm;
use dps_station::fixtures::tpm::{Defect, Maker, SwTpm, manufacture};
use dps_station::provision::device::RegistrationId;
use dps_station::provision::endorsement::EndorsementPolicy;
use dps_station::provision::endorsement::credential::{
    Challenge, ChallengeItems, ChallengeSeeds, sas_to_sign,
};
use dps_station::provision::endorsement::{EmptyHandle, VendorRoots, judge};
use dps_station::provision::event::EndorsementVerdict;
use dps_station::provision::fault::Fault;
use dps_station::tpm::jobs::{self, Extracted, Rehearsed};
use dps_station::tpm::{CommandRecord, Limit, Relay, TpmError, command_name, roots, run};
use std::future::pending;
use std::path::Path;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};
use tss_esapi::Context;

/// For a whole run; swtpm needs a tenth of a second.
pub const LIMIT: Duration = Duration::from_secs(20);

/// What a changed byte is changed by: turns success into "no such handle" where it can.
pub const CHANGE: u8 = 0x8b;

pub const READ_PUBLIC_EK: [u8; 14] = [
    0x80, 0x01, 0, 0, 0, 14, 0, 0, 0x01, 0x73, 0x81, 0x01, 0x00, 0x01,
];

/// TPMs are slow to make: one of each kind is made for all tests, and every test works on a copy.
pub struct Factory {
    dir: tempfile::TempDir,
    pub maker: Maker,
}

pub fn factory() -> &'static Factory {
    static FACTORY: OnceLock<Factory> = OnceLock::new();
    FACTORY.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let maker = Maker::found(&dir.path().join("maker"), "A").unwrap();
        for defect in [
            None,
            Some(Defect::NoCertificate),
            Some(Defect::EmptyHandle),
            Some(Defect::Expired),
            Some(Defect::AnotherKey),
        ] {
            let to = dir.path().join(format!("{defect:?}"));
            manufacture(&to, &maker, defect).unwrap();
        }
        Factory { dir, maker }
    })
}

pub fn trusted() -> VendorRoots {
    roots::load(&factory().maker.roots()).unwrap()
}

/// Some time after everything was made, in seconds since 1970.
pub fn now() -> i64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    i64::try_from(now.unwrap().as_secs()).unwrap() + 60
}

/// The line between a run and a TPM, with at most one thing wrong with it.
pub struct Line<'a> {
    tpm: &'a mut SwTpm,
    wrong: Wrong,
    /// Commands seen.
    seen: usize,
}

#[derive(Clone)]
pub enum Wrong {
    Nothing,
    /// The answer to the n-th command, from 0, never comes, though the TPM did what it was told.
    Stall(usize),
    /// The line breaks at the n-th command.
    Break(usize),
    /// One byte of the n-th answer is changed.
    Change(usize, usize),
    /// The EK's public area is another's.
    Lie(Vec<u8>),
}

impl<'a> Line<'a> {
    pub fn new(tpm: &'a mut SwTpm, wrong: Wrong) -> Self {
        Self {
            tpm,
            wrong,
            seen: 0,
        }
    }
}

impl Relay for Line<'_> {
    type Error = std::io::Error;

    async fn transact(&mut self, command: Vec<u8>) -> std::io::Result<Vec<u8>> {
        let mut answer = self.tpm.transact(&command)?;
        let nth = self.seen;
        self.seen += 1;
        match &self.wrong {
            Wrong::Stall(n) if *n == nth => pending().await,
            Wrong::Break(n) if *n == nth => Err(std::io::Error::other("the cable was pulled")),
            Wrong::Change(n, at) if *n == nth => {
                if let Some(byte) = answer.get_mut(*at) {
                    *byte ^= CHANGE;
                }
                Ok(answer)
            }
            Wrong::Lie(borrowed) if command == READ_PUBLIC_EK => Ok(borrowed.clone()),
            _ => Ok(answer),
        }
    }
}

/// A running TPM that belongs to one test.
pub struct Device {
    pub tpm: SwTpm,
    pub log: Vec<CommandRecord>,
    dir: tempfile::TempDir,
}

impl Device {
    pub fn new(defect: Option<Defect>) -> Self {
        Self::copy(&factory().dir.path().join(format!("{defect:?}")))
    }

    pub fn copy(from: &Path) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for file in std::fs::read_dir(from).unwrap() {
            let file = file.unwrap();
            std::fs::copy(file.path(), dir.path().join(file.file_name())).unwrap();
        }
        Self {
            tpm: SwTpm::start(dir.path()).unwrap(),
            log: Vec::new(),
            dir,
        }
    }

    /// The TPM, and the folder that it lives in.
    pub fn into_parts(self) -> (SwTpm, tempfile::TempDir) {
        (self.tpm, self.dir)
    }

    pub async fn run<T: Send + 'static>(
        &mut self,
        job: impl FnOnce(&mut Context) -> Result<T, TpmError> + Send + 'static,
    ) -> Result<T, TpmError> {
        let mut line = Line::new(&mut self.tpm, Wrong::Nothing);
        run(&mut line, &mut self.log, Limit::from_now(LIMIT), job).await
    }

    pub async fn run_wrong<T: Send + 'static>(
        &mut self,
        wrong: Wrong,
        limit: Duration,
        job: impl FnOnce(&mut Context) -> Result<T, TpmError> + Send + 'static,
    ) -> Result<T, TpmError> {
        let mut line = Line::new(&mut self.tpm, wrong);
        run(&mut line, &mut Vec::new(), Limit::from_now(limit), job).await
    }

    pub async fn extract(&mut self, empty: EmptyHandle) -> Extracted {
        self.run(move |tpm| jobs::extract(tpm, empty))
            .await
            .unwrap()
    }

    pub async fn rehearse(&mut self, keys: &Extracted) -> Result<(), TpmError> {
        let (challenge, sas) = challenge(keys);
        let rehearsed = self.run(rehearsal(keys, &challenge, &sas)).await?;
        assert!(challenge.is_met_by(&rehearsed.activated, &sas, &rehearsed.hmac));
        Ok(())
    }

    pub fn handles(&mut self) -> Vec<Vec<u8>> {
        handles(&mut self.tpm)
    }

    pub fn names(&self) -> Vec<&'static str> {
        let names = self.log.iter().map(|record| command_name(record.code));
        names.map(Option::unwrap).collect()
    }
}

/// All handles that a TPM holds: persistent, transient, sessions, and NV indices.
pub fn handles(tpm: &mut impl Tpm) -> Vec<Vec<u8>> {
    let ranges = [0x81_u8, 0x80, 0x02, 0x03, 0x01];
    let ask = |first: u8| {
        let mut command = vec![0x80, 0x01, 0, 0, 0, 22, 0, 0, 0x01, 0x7a, 0, 0, 0, 1];
        command.extend_from_slice(&[first, 0, 0, 0, 0, 0, 0, 0x40]);
        tpm.transact(&command).unwrap()
    };
    ranges.map(ask).to_vec()
}

pub fn challenge(keys: &Extracted) -> (Challenge, String) {
    let seeds = ChallengeSeeds {
        inner: [1; 16],
        credential: [2; 32],
        obfuscation: [3; 32],
        wrap: [4; 32],
        key: [5; 32],
    };
    let challenge = Challenge::make(&keys.endorsement_key, &keys.storage_root_key, &seeds);
    let id = RegistrationId::of_endorsement_key(&keys.endorsement_key.tpm2b().0);
    (
        challenge.unwrap(),
        sas_to_sign("0ne00000001", &id, 1_800_000_000),
    )
}

pub fn rehearsal(
    keys: &Extracted,
    challenge: &Challenge,
    sas: &str,
) -> impl FnOnce(&mut Context) -> Result<Rehearsed, TpmError> + Send + use<> {
    let items = ChallengeItems::parse(&challenge.blob).unwrap();
    let (keys, sas) = (keys.clone(), sas.to_owned());
    move |tpm| {
        let (ek, srk) = (&keys.endorsement_key, &keys.storage_root_key);
        jobs::rehearse(tpm, ek, srk, &items, &sas)
    }
}

pub fn verdict(found: &Extracted, roots: &VendorRoots) -> Result<EndorsementVerdict, Fault> {
    let certificate = found.certificate.as_deref();
    let policy = EndorsementPolicy::Required;
    judge(
        &found.endorsement_key,
        certificate,
        &[],
        &policy,
        roots,
        now(),
    )
}
