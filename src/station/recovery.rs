//! What a station does first: end, on record, every attempt that an earlier process left open.

use crate::bay::{Line, StationFault};
use crate::provision::event::Event;
use crate::provision::fault::Fault;
use crate::provision::job::Job;
use std::sync::Arc;

/// Ends every open attempt as interrupted; a reservation that was perhaps signed is given up first.
///
/// Only for a process that knows itself the ledger's only station; see [`crate::ledger`].
pub async fn close_open_attempts(line: &Line) -> Result<usize, StationFault> {
    let open = line
        .ledger
        .open_attempts()
        .await
        .map_err(StationFault::ledger)?;
    let count = open.len();
    for attempt in open {
        let fault = Fault::StationStopped { bay: attempt.bay };
        let Some(claim) = attempt.claim else {
            let ended = Event::Interrupted { fault };
            line.ledger
                .end_attempt(attempt.attempt, &ended)
                .await
                .map_err(StationFault::ledger)?;
            continue;
        };
        let events = line
            .ledger
            .events(claim.device())
            .await
            .map_err(StationFault::ledger)?;
        // The product decides what comes next, and nothing comes next here: any will do.
        let Some(made) = line.products.first() else {
            continue;
        };
        let job = Job::recover(claim.device().clone(), Arc::clone(&made.product), &events);
        let events = match job {
            Ok(job) => job.interrupted(fault),
            // What was reserved stays as it is: from such a record nothing is ever signed again.
            Err(error) => vec![Event::Interrupted {
                fault: StationFault::damaged(error).0,
            }],
        };
        for event in events {
            line.ledger
                .append(&claim, None, &event)
                .await
                .map_err(StationFault::ledger)?;
        }
    }
    Ok(count)
}
