//! A run: batches of what is due, several at a time, until nothing is left or there is no more patience.

use super::call::Caller;
use super::settle::settle;
use super::waiting;
use crate::provision::batch::{Batch, plan};
use crate::provision::device::RegistrationId;
use crate::provision::fault::Fault;
use futures_util::stream::{FuturesUnordered, StreamExt};
use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Batches that are settled at the same time: with ten calls in flight, more would only wait for them.
const BATCHES: usize = 4;
/// Longest sleep before it is looked again whether a record is due: a person may have put one back meanwhile.
const LOOK_AGAIN_MS: i64 = 250;

/// Batches that are to be settled, and the records that are held for it.
#[derive(Default)]
struct Hold {
    ready: VecDeque<Batch>,
    held: Arc<HashSet<RegistrationId>>,
}

impl Hold {
    /// The next batch, if anything is due that is not held.
    async fn next(&mut self, caller: &Caller<'_>) -> Result<Option<Batch>, Fault> {
        if self.ready.is_empty() {
            // One time for both: what is held and in no batch would never be released.
            let now_ms = caller.dps.now_ms();
            let due = waiting::due(caller.ledger, caller.dps, &self.held, now_ms).await?;
            let held = Arc::make_mut(&mut self.held);
            held.extend(due.iter().map(|row| row.enrollment.registration_id.clone()));
            let (ordered, due): (Vec<_>, Vec<_>) =
                due.into_iter().partition(|row| row.ordered.is_some());
            self.ready = plan(due, now_ms, caller.terms.most_at_once()).into();
            self.ready.extend(ordered.into_iter().map(Batch::alone));
        }
        Ok(self.ready.pop_front())
    }

    fn release(&mut self, ids: &[RegistrationId]) {
        let held = Arc::make_mut(&mut self.held);
        ids.iter().for_each(|id| {
            held.remove(id);
        });
    }
}

/// Settles what waits in the outbox.
pub(super) async fn run(caller: &Caller<'_>) -> Result<(), Fault> {
    let mut hold = Hold::default();
    let mut flying = FuturesUnordered::new();
    let mut ended = None;
    let mut tried = false;
    loop {
        while ended.is_none() && flying.len() < BATCHES {
            let Some(batch) = hold.next(caller).await? else {
                break;
            };
            tried = true;
            flying.push(async {
                let ids = batch.rows.iter().map(|row| &row.enrollment.registration_id);
                let ids: Vec<_> = ids.cloned().collect();
                (settle(caller, batch).await, ids)
            });
        }
        match flying.next().await {
            Some((Ok(()), ids)) => hold.release(&ids),
            // The others come back too: with their answers, or because the run has ended for them as well.
            Some((Err(fault), _)) => {
                ended.get_or_insert(caller.end(fault));
            }
            None => match ended {
                Some(fault) => return Err(fault),
                None if !more(caller, std::mem::take(&mut tried)).await? => return Ok(()),
                None => {}
            },
        }
    }
}

/// Waits a while for the next record that was put off; false if none is left, or is due too late, or no patience is
/// left and nothing was `tried` since the last wait.
async fn more(caller: &Caller<'_>, tried: bool) -> Result<bool, Fault> {
    let now_ms = caller.dps.now_ms();
    let next = caller.ledger.next_due_ms(caller.dps.name(), now_ms);
    let Some(due_ms) = next.await? else {
        return Ok(false);
    };
    let wait_ms = due_ms.saturating_sub(now_ms).max(0);
    let wait = Duration::from_millis(wait_ms.unsigned_abs());
    {
        let mut meter = caller.meter();
        let left = caller
            .terms
            .patience
            .saturating_sub(meter.settled.elapsed());
        if wait > left || (left.is_zero() && !tried) {
            drop(meter);
            return caller.standing_trouble().map_or(Ok(false), Err);
        }
        meter.record = Some(Instant::now() + wait);
    }
    tokio::time::sleep(Duration::from_millis(
        wait_ms.min(LOOK_AGAIN_MS).unsigned_abs(),
    ))
    .await;
    Ok(true)
}
