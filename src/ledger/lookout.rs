//! The lookout: whether anybody has committed something to the ledger, and how shift and outboxes stand then.

use super::failure::Failure;
use super::read::{self, Standing};
use super::{LedgerError, store};
use rusqlite::Connection;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

/// Looks at the ledger again and again, over a connection of its own.
#[derive(Clone)]
pub struct Lookout {
    path: Arc<Path>,
    looked: Arc<Mutex<Looked>>,
}

/// The connection, once there is one, and what it said of the file when it was last looked at.
#[derive(Default)]
struct Looked {
    db: Option<Connection>,
    data_version: Option<i64>,
}

impl Lookout {
    pub(super) fn new(path: &Arc<Path>) -> Self {
        Self {
            path: Arc::clone(path),
            looked: Arc::default(),
        }
    }

    /// How things stand, if anybody has committed anything since the last look, in this process or another; the first
    /// look always says. It costs a few rows, and nothing where nothing happened.
    pub async fn look(&self) -> Result<Option<Standing>, LedgerError> {
        let this = self.clone();
        let answer = tokio::task::spawn_blocking(move || {
            let mut looked = this.looked.lock().unwrap_or_else(PoisonError::into_inner);
            looked.look(&this.path).map_err(|e| e.at(&this.path))
        });
        answer.await.unwrap_or_else(|error| {
            Err(LedgerError::Storage {
                path: self.path.to_path_buf(),
                reason: error.to_string(),
            })
        })
    }
}

impl Looked {
    fn look(&mut self, path: &Path) -> Result<Option<Standing>, Failure> {
        let db = match &mut self.db {
            Some(db) => db,
            none => none.insert(store::open_reader(path)?),
        };
        // Other connections' commits change it, and all commits are other connections'.
        let version = db.pragma_query_value(None, "data_version", |row| row.get(0))?;
        if self.data_version == Some(version) {
            return Ok(None);
        }
        store::refuse_newer(db, path)?;
        let transaction = db.transaction()?;
        let standing = read::standing(&transaction)?;
        // Kept only now: what could not be read is looked at again. What was committed since is seen next time.
        self.data_version = Some(version);
        Ok(Some(standing))
    }
}
