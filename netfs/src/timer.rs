//! Waiting with a bound, from any thread: the timer runs on the driver, whatever runtime (if any)
//! polls the waiter.

use std::{future::Future, pin::pin};

use futures_util::future::{Either, select};

use crate::{
    clock::{BootTime, Clock},
    driver::{Handle, JoinHandle},
};

/// `work`'s value, or `None` if `deadline` came first. The work is dropped then.
pub(crate) async fn until<T>(
    driver: &Handle,
    clock: &dyn Clock,
    deadline: BootTime,
    work: impl Future<Output = T>,
) -> Option<T> {
    let alarm = Alarm(driver.spawn(clock.sleep_until(deadline)));
    match select(pin!(work), pin!(alarm.rung())).await {
        Either::Left((value, _)) => Some(value),
        Either::Right(_) => None,
    }
}

/// Sleeps until `deadline`, on whatever thread; no longer than the driver lives.
pub(crate) async fn sleep(driver: &Handle, clock: &dyn Clock, deadline: BootTime) {
    Alarm(driver.spawn(clock.sleep_until(deadline))).rung().await;
}

struct Alarm(JoinHandle<()>);

impl Alarm {
    async fn rung(mut self) {
        // A lost task means that the driver is gone: then nothing else will come either.
        let _ = (&mut self.0).await;
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        self.0.abort();
    }
}
