//! The processes of our own native stack, where one runs behind the run's doors and this build knows of it.
//! A process that another took the place of was restarted; nothing else is concluded here.

use super::{proc::Known, usage::Watched};
use parking_lot::Mutex;
use url::Url;

/// The processes of a stack, as its supervisor tells them.
#[derive(Debug)]
pub(super) struct Processes {
    known: Known,
    #[cfg(feature = "embedded")]
    state_dir: Option<std::path::PathBuf>,
}

#[cfg(not(feature = "embedded"))]
impl Processes {
    pub(super) fn find(_: Option<&str>, _: &Url) -> Self {
        Self { known: Known::default() }
    }

    pub(super) fn known(&self) -> Known {
        Known::clone(&self.known)
    }

    pub(super) fn follow(self) -> Option<Self> {
        None
    }

    pub(super) fn look(&self, _: u64, _: &Mutex<Watched>) {}
}

#[cfg(feature = "embedded")]
impl Processes {
    /// Those of the stack of that name; none where the run is aimed at something else.
    pub(super) fn find(name: Option<&str>, api: &Url) -> Self {
        let state_dir = match stack::fault::Place::find(name) {
            Ok(stack::fault::Place::Native(state_dir)) => Some(state_dir),
            _ => None,
        };
        let is_ours = |status: &stack::native::Status| {
            let door = status.api_url.parse::<Url>().ok();
            let loopback =
                api.host_str().is_some_and(|host| ["127.0.0.1", "localhost", "[::1]"].contains(&host));
            loopback && door.is_some_and(|door| door.port_or_known_default() == api.port_or_known_default())
        };
        let status = state_dir.as_deref().and_then(status).filter(is_ours);
        let processes = Self { known: Known::default(), state_dir: state_dir.filter(|_| status.is_some()) };
        if let Some(status) = status {
            let pids = status.processes.into_iter().map(|process| (process.name, process.pid));
            processes.known.lock().extend(pids);
        }
        processes
    }

    pub(super) fn known(&self) -> Known {
        Known::clone(&self.known)
    }

    /// Itself, where there is something to follow.
    pub(super) fn follow(self) -> Option<Self> {
        self.state_dir.is_some().then_some(self)
    }

    pub(super) fn look(&self, second: u64, seen: &Mutex<Watched>) {
        let Some(status) = self.state_dir.as_deref().and_then(status) else { return };
        for process in status.processes {
            let before = self.known.lock().insert(process.name.clone(), process.pid);
            let mut seen = seen.lock();
            if before.is_some_and(|before| before != process.pid) {
                seen.restarted(&process.name, second);
                seen.ended.retain(|ended| ended.0 != process.name);
            }
            let is_told = seen.ended.iter().any(|ended| ended.0 == process.name);
            if process.state.starts_with("ended") && !is_told {
                seen.ended(&process.name, second);
            }
        }
    }
}

#[cfg(feature = "embedded")]
fn status(state_dir: &std::path::Path) -> Option<stack::native::Status> {
    match stack::control::call(state_dir, &stack::control::Request::Status) {
        Ok(stack::control::Response::Status(status)) => Some(status),
        _ => None,
    }
}
