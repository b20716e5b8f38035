//! Drains the outbox into DPS: ten at a time, several calls in flight, paced, resumable at any point.
//!
//! Dropping a future of this file is like a kill: what was charged and has no answer is read back first next time.
//! A record is in at most one call: those that are held are not taken again before they are settled or put off, and a
//! drain has its turn alone.

mod call;
mod compare;
mod foresee;
mod gate;
mod meter;
mod probe;
mod reconcile;
mod refusal;
mod retry;
mod run;
mod settle;
mod waiting;

pub use foresee::{Intent, dry_run};
pub use probe::{READ_STATES, WRITE, missing_rights};
pub use reconcile::{Discrepancy, DiscrepancyKind, look, reconcile, survey};
pub use retry::{meant, retry};

use crate::dps::Dps;
use crate::ledger::{Ledger, Turn};
use crate::provision::batch::{BATCH_LIMIT, Difference};
use crate::provision::device::RegistrationId;
use crate::provision::fault::{Fault, TurnHolder};
use crate::provision::upload::{Progress, Wait};
use call::Caller;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// How long a run goes on in vain unless it is told otherwise.
const PATIENCE: Duration = Duration::from_secs(300);
/// The same for one that only reads: it is begun again as easily.
const READ_PATIENCE: Duration = Duration::from_secs(30);
/// The same for one that nobody waits for.
pub const LONG_PATIENCE: Duration = Duration::from_secs(12 * 3_600);
/// How often it is told how an upload stands.
const TELL_EVERY: Duration = Duration::from_millis(500);

/// What a run over the outbox was told.
#[derive(Clone, Debug)]
pub struct Terms {
    /// This station's share of the service's quota, in operations a minute.
    pub share: u32,
    /// How long to go on without a usable answer, or with nothing but records that are put off.
    pub patience: Duration,
    /// Whether to wait where another process drains this outbox, and to go on where it ends.
    pub follow: bool,
    /// The command that runs it, for others who come.
    pub command: &'static str,
}

impl Terms {
    /// Terms for a person who waits for the end: some minutes of patience, and none for another process.
    pub fn new(share: u32, command: &'static str) -> Self {
        Self {
            share,
            patience: PATIENCE,
            follow: false,
            command,
        }
    }

    /// The most records that are sent in one call: no more than half of the share, so that who only reads can leave room
    /// for them and still go on.
    fn most_at_once(&self) -> usize {
        (self.share as usize / 2).clamp(1, BATCH_LIMIT)
    }

    /// Terms for a person who waits for what is only read.
    pub fn to_read(share: u32, command: &'static str) -> Self {
        Self {
            patience: READ_PATIENCE,
            ..Self::new(share, command)
        }
    }
}

/// How a run over the outbox ended, in records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Read back with our content, in this run.
    pub enrolled: u32,
    /// Left to a person, in this run.
    pub refused: u32,
    /// Read back as disabled, in this run.
    pub disabled: u32,
    /// Still waiting, after at least one try.
    pub deferred: u32,
    /// Still waiting, without a try.
    pub pending: u32,
    /// Of those settled: what someone set in them in the cloud, of the first thousand where there is anything.
    pub also_set: Vec<(RegistrationId, Vec<Difference>)>,
    /// What ended the run early.
    pub fault: Option<Fault>,
}

impl Summary {
    /// Whether no record is left to a person or to a later run.
    pub fn all_settled(&self) -> bool {
        self.refused + self.deferred + self.pending == 0
    }
}

/// Settles every record of the outbox for `dps`, and says all the while how it stands.
///
/// A record that fails is deferred or refused, and the others go on. A service that does not answer is asked again for
/// as long as the terms say; what only a person can change ends the run with a fault in the summary. Nothing is lost
/// then, and the next run resumes.
pub async fn drain(
    ledger: &Ledger,
    dps: &Dps,
    terms: &Terms,
    said: &watch::Sender<Progress>,
) -> Summary {
    let caller = Caller::new(ledger, dps, terms);
    let ended = async {
        let _turn = turn(&caller, said).await?;
        tokio::select! {
            ended = run::run(&caller) => ended,
            fault = tell(&caller, said) => Err(fault),
        }
    };
    let ended = ended.await;
    let mut summary = std::mem::take(&mut caller.meter().summary);
    summary.fault = ended.err();
    match ledger.outbox_counts(dps.name()).await {
        Ok(counts) => {
            summary.deferred = counts.tried;
            summary.pending = counts.waiting - counts.tried;
        }
        Err(error) => summary.fault = Some(error.into()),
    }
    summary
}

/// Waits for our turn, if we are told to, and follows meanwhile what the other process does.
async fn turn(caller: &Caller<'_>, said: &watch::Sender<Progress>) -> Result<Turn, Fault> {
    let dps = caller.dps.name();
    let mut moved: Option<(u32, Instant)> = None;
    loop {
        let holder = match caller
            .ledger
            .turn(dps, caller.terms.command, caller.dps.now_ms())?
        {
            Turn::Taken(holder) => holder,
            ours => return Ok(ours),
        };
        let counts = caller.ledger.outbox_counts(dps).await?;
        let (to_go, since) = *moved.get_or_insert((counts.waiting, Instant::now()));
        if to_go != counts.waiting {
            moved = Some((counts.waiting, Instant::now()));
        }
        if !caller.terms.follow || since.elapsed() > caller.terms.patience {
            let dps = dps.to_owned();
            return Err(Fault::UploadElsewhere { dps, holder });
        }
        said.send_replace(followed(caller, counts.waiting, counts.refused, holder));
        tokio::time::sleep(TELL_EVERY).await;
    }
}

fn followed(caller: &Caller<'_>, to_go: u32, refused: u32, holder: TurnHolder) -> Progress {
    Progress {
        wait: Some(Wait::Turn { holder }),
        ..caller.progress(to_go, refused)
    }
}

/// Says again and again how the upload stands; gives back only why that cannot be found out.
async fn tell(caller: &Caller<'_>, said: &watch::Sender<Progress>) -> Fault {
    loop {
        match caller.ledger.outbox_counts(caller.dps.name()).await {
            Ok(counts) => said.send_replace(caller.progress(counts.waiting, counts.refused)),
            Err(error) => return error.into(),
        };
        tokio::time::sleep(TELL_EVERY).await;
    }
}

fn count(records: usize) -> u32 {
    u32::try_from(records).unwrap_or(u32::MAX)
}
