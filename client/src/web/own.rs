//! `run --web`: the page of the run of this process. It has its own thread. The run writes its events into a pipe that takes only
//! what it has room for, and does not wait for the page at its end.

use super::{command::Listening, events::EventPipe, program::ThisProgram};
use crate::{config::Config, run_error::RunError};
use anyhow::Context;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use parking_lot::Mutex;
use report::{messages, output::Destination};
use std::{
    io::{self, BufRead},
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread::{self, JoinHandle},
    time::Duration,
};
use tokio_util::sync::CancellationToken;
use web::{PageSettings, Run, RunEnd, Token, serve};

/// Time after the end of the run in which browsers receive the verdict. It does not depend on them.
const LAST_EVENTS: Duration = Duration::from_millis(300);

/// The page of the run of this process. Dropping it ends the page.
pub(crate) struct OwnPage {
    ended: Option<SyncSender<RunEnd>>,
    shutdown: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl OwnPage {
    /// Starts the page, and lets the run write its events for it.
    ///
    /// # Errors
    /// The address cannot be used, or the pipe or thread cannot be created.
    pub(crate) fn start(address: &str, config: &mut Config) -> Result<Self, RunError> {
        let listening = Listening::on(address, &[])?;
        let pipe = EventPipe::temporary().context("cannot create the pipe of the page's events")?;
        config.output.events = Some(Destination::Seconds(pipe.path().to_owned()));
        let reader = pipe.reader().context("cannot open the pipe of the page's events")?;
        let program = ThisProgram {
            results: config.output.dir.clone(),
            target: Vec::new(),
            run: config.given.clone(),
            starts_runs: false,
        };
        let token = Token::draw();
        messages::print_stderr(&format!("page: {}", listening.url(&token, false)));
        let (ended, end) = sync_channel(1);
        let run = OwnRun { reader: Mutex::new(Some(Box::new(reader))), end: Mutex::new(end), pipe };
        let shutdown = CancellationToken::new();
        let stop = shutdown.clone();
        let page = move || {
            let serving = async {
                let listener = listening.listener()?;
                let settings = PageSettings::default();
                serve(listener, Arc::new(program), settings, token, Some(Box::new(run)), stop).await;
                anyhow::Ok(())
            };
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            if let Err(error) = runtime.context("cannot start the page").and_then(|runtime| {
                let served = runtime.block_on(serving);
                runtime.shutdown_background();
                served
            }) {
                messages::print_stderr(&format!("warning: the page ended: {error:#}"));
            }
        };
        let thread =
            thread::Builder::new().name("web".into()).spawn(page).context("cannot start a thread")?;
        Ok(Self { ended: Some(ended), shutdown, thread: Some(thread) })
    }

    /// Tells the page that the run has ended with this exit code, and ends it a moment later.
    pub(crate) fn end(mut self, code: u8) {
        if let Some(ended) = self.ended.take() {
            let _ = ended.send(RunEnd { code: Some(code.into()), messages: String::new() });
            thread::sleep(LAST_EVENTS);
        }
    }
}

impl Drop for OwnPage {
    fn drop(&mut self) {
        self.shutdown.cancel();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The run of this process.
struct OwnRun {
    pipe: EventPipe,
    reader: Mutex<Option<Box<dyn BufRead + Send>>>,
    end: Mutex<Receiver<RunEnd>>,
}

impl Run for OwnRun {
    fn events(&self) -> Option<Box<dyn BufRead + Send>> {
        self.reader.lock().take()
    }

    fn interrupt(&self) -> io::Result<()> {
        // The same path as Ctrl+C.
        Ok(kill(Pid::this(), Signal::SIGINT)?)
    }

    fn wait(&self) -> RunEnd {
        let end = self.end.lock().recv().unwrap_or_default();
        self.pipe.end();
        end
    }
}
