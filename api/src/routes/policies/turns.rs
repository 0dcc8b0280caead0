//! Turns: loads of one account, one after the other.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use conclave_domain::id::AccountName;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Whose turn it is, by account. Accounts of loads that may happen only, so there are not many.
#[derive(Debug, Default, Clone)]
pub(crate) struct Turns(Arc<Mutex<HashMap<AccountName, Arc<Semaphore>>>>);

impl Turns {
    /// Waits for a turn, first come first served; nothing when none came in time. It lasts until
    /// dropped.
    pub(crate) async fn take(
        &self,
        account: &AccountName,
        wait_max: Duration,
    ) -> Option<OwnedSemaphorePermit> {
        let turn = {
            let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            // Nobody holds or awaits what only this table knows.
            turns.retain(|_, turn| Arc::strong_count(turn) > 1);
            Arc::clone(turns.entry(account.clone()).or_insert_with(|| Arc::new(Semaphore::new(1))))
        };
        tokio::time::timeout(wait_max, turn.acquire_owned()).await.ok()?.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn loads_of_one_account_take_turns_and_give_up_in_time() {
        let turns = Turns::default();
        let (one, other) = (AccountName::new("one").unwrap(), AccountName::new("other").unwrap());
        let first = turns.take(&one, Duration::ZERO).await.unwrap();
        assert!(turns.take(&one, Duration::from_millis(10)).await.is_none());
        assert!(turns.take(&other, Duration::ZERO).await.is_some());
        let waiting = tokio::spawn({
            let (turns, one) = (turns.clone(), one.clone());
            async move { turns.take(&one, Duration::from_mins(1)).await.is_some() }
        });
        tokio::task::yield_now().await;
        drop(first);
        assert!(waiting.await.unwrap());
        assert!(turns.take(&one, Duration::ZERO).await.is_some());
    }
}
