//! The bay's own test of its port, and how a bay that failed it stays out of service.

use super::faults::loopback_fault;
use super::presence::REOPEN_POLL;
use super::{Bay, StationFault};
use crate::link::loopback;
use crate::provision::event::Event;
use crate::provision::fault::Fault;
use crate::provision::floor::Report;
use std::time::Duration;

impl Bay {
    /// Returns when the ledger has no failed loopback test of this bay as its last one. Until then the port is left
    /// alone, for `station loopback` or for a test that the screen asks for.
    pub(super) async fn in_service(&self) -> Result<(), StationFault> {
        let mut said = false;
        while self
            .line
            .ledger
            .out_of_service(&self.name)
            .await
            .map_err(StationFault::ledger)?
        {
            if !said {
                self.report(Report::BayOut {
                    at_ms: self.now(),
                    bay: self.name.clone(),
                    fault: Fault::LoopbackFailed {
                        bay: self.name.clone(),
                    },
                })
                .await;
                said = true;
            }
            if self.test_wanted(REOPEN_POLL).await {
                self.test_port().await?;
            }
        }
        Ok(())
    }

    /// Tests the port, which must be closed, records the result and tells of it. A test that cannot be done is told
    /// and changes nothing.
    pub(super) async fn test_port(&self) -> Result<(), StationFault> {
        self.note(
            vec![format!("{} is being tested", self.port.display())],
            None,
        )
        .await;
        let result = match loopback::run(&self.port, &self.link, &self.line.loopback).await {
            Ok(result) => result,
            Err(error) => {
                let fault = loopback_fault(&self.name, &error);
                self.note(Vec::new(), Some(fault)).await;
                return Ok(());
            }
        };
        let lines = result.text();
        let tested = Event::LoopbackTested {
            bay: Some(self.name.clone()),
            port: self.port.display().to_string(),
            passed: result.passed(),
            result: Box::new(result),
        };
        let recorded = self
            .line
            .ledger
            .record(&tested)
            .await
            .map_err(StationFault::ledger)?;
        self.report_event(recorded).await;
        self.note(lines, None).await;
        Ok(())
    }

    /// Waits for `time`, or until the port is to be tested; says whether it is.
    pub(super) async fn test_wanted(&self, time: Duration) -> bool {
        tokio::select! {
            biased;
            () = self.test.notified() => true,
            () = tokio::time::sleep(time) => false,
        }
    }

    async fn note(&self, lines: Vec<String>, fault: Option<Fault>) {
        self.report(Report::Note {
            at_ms: self.now(),
            title: format!("Loopback test of bay {}", self.name),
            lines,
            fault,
        })
        .await;
    }
}
