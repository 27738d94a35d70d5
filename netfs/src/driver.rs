//! The driver: the threads background work runs on, and the one place they are imported from.
//!
//! Normal builds use a tokio runtime. Built with `--cfg shuttle` the same names are tasks of the model
//! checker, so that the whole core, from a reader's call to a published folio, runs under every
//! interleaving it cares to try. What is left of tokio then (channels, `Notify`, semaphores) needs no
//! runtime; each of its calls is one step of the model.

#[cfg(not(shuttle))]
mod imp {
    use std::cell::Cell;

    pub(crate) use pollster::block_on;
    pub(crate) use tokio::{
        runtime::{Handle, Runtime},
        task::JoinHandle,
    };

    /// Whether a task was lost to a panic of its own, not to the driver's end.
    pub(crate) fn panicked(lost: &tokio::task::JoinError) -> bool {
        lost.is_panic()
    }

    /// Starts the driver threads.
    pub(crate) fn start(threads: usize) -> std::io::Result<Runtime> {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(threads)
            .thread_name("netfs-driver")
            .on_thread_start(|| HERE.set(true))
            .enable_all()
            .build()
    }

    thread_local! {
        static HERE: Cell<bool> = const { Cell::new(false) };
    }

    /// Whether this is a thread of a driver.
    pub(crate) fn is_here() -> bool {
        HERE.get()
    }
}

#[cfg(shuttle)]
mod imp {
    use std::future::Future;

    use shuttle::future::AbortHandle;
    pub(crate) use shuttle::future::{JoinHandle, block_on};

    use crate::sync::{Arc, Mutex};

    /// Spawns tasks of the model. As with a runtime's handle, what is spawned after the end is dropped.
    #[derive(Clone, Default)]
    pub(crate) struct Handle(Arc<Mutex<Tasks>>);

    #[derive(Default)]
    struct Tasks {
        over: bool,
        spawned: Vec<AbortHandle>,
    }

    impl Handle {
        /// A driver of its own.
        #[cfg(test)]
        pub(crate) fn current() -> Handle {
            Handle::default()
        }

        /// Waits until no task is left: the model cannot end in the middle of one.
        #[cfg(test)]
        pub(crate) fn settle(&self) {
            let left = || self.0.lock().spawned.iter().any(|task| !task.is_finished());
            while left() {
                shuttle::thread::yield_now();
            }
        }

        pub(crate) fn spawn<F>(&self, work: F) -> JoinHandle<F::Output>
        where
            F: Future + Send + 'static,
            F::Output: Send + 'static,
        {
            let task = shuttle::future::spawn(work);
            let over = {
                let mut tasks = self.0.lock();
                tasks.spawned.push(task.abort_handle());
                tasks.over
            };
            if over {
                task.abort();
            }
            task
        }
    }

    pub(crate) struct Runtime(Handle);

    impl Runtime {
        pub(crate) fn handle(&self) -> &Handle {
            &self.0
        }

        /// Drops every task at its next await, as a runtime that is shut down does.
        pub(crate) fn shutdown_background(self) {
            let spawned = {
                let mut tasks = self.0.0.lock();
                tasks.over = true;
                tasks.spawned.clone()
            };
            spawned.iter().for_each(AbortHandle::abort);
        }
    }

    /// A panic ends the whole run.
    pub(crate) fn panicked(_: &shuttle::future::JoinError) -> bool {
        false
    }

    pub(crate) fn start(_threads: usize) -> std::io::Result<Runtime> {
        Ok(Runtime(Handle::default()))
    }

    /// A task of the model is one thread as well as another.
    pub(crate) fn is_here() -> bool {
        true
    }
}

pub(crate) use imp::*;
