//! This program, as the page uses it: its commands as processes, and one session at the target.

use super::{
    child::{self, ChildRun},
    trial,
};
use crate::cli::RunArgs;
use std::{
    io,
    path::{Path, PathBuf},
};
use web::{Called, Program, Run, Session};

/// The kernel's name for this program. It stays valid when the file is replaced.
const THIS: &str = "/proc/self/exe";

/// This program.
pub(super) struct ThisProgram {
    /// Directory of the results.
    pub(super) results: PathBuf,
    /// The options of `web` that say where runs go. They precede the options of each run.
    pub(super) target: Vec<String>,
    /// The options of a run at the target of the page.
    pub(super) run: RunArgs,
    pub(super) starts_runs: bool,
}

impl ThisProgram {
    /// Returns the arguments of a run: those of the page's target, unless the form names another one, and those of the form.
    fn arguments(&self, of_form: &[String]) -> Vec<String> {
        let names_target = of_form.iter().any(|argument| {
            ["--api-url", "--wsproxy-url", "--embedded"].iter().any(|flag| argument.starts_with(flag))
        });
        let target = if names_target { &[][..] } else { &self.target };
        let results = format!("--output-dir={}", self.results.display());
        [results].iter().chain(target).chain(of_form).cloned().collect()
    }
}

impl Program for ThisProgram {
    fn call(&self, arguments: &[String]) -> io::Result<Called> {
        match arguments.split_first() {
            Some((command, rest)) if command == "run" => {
                let run = [vec!["run".to_owned()], self.arguments(rest)].concat();
                child::call(Path::new(THIS), &run)
            }
            _ => child::call(Path::new(THIS), arguments),
        }
    }

    fn start(&self, arguments: &[String]) -> io::Result<Box<dyn Run>> {
        Ok(Box::new(ChildRun::start(Path::new(THIS), &self.arguments(arguments))?))
    }

    fn starts_runs(&self) -> bool {
        self.starts_runs
    }

    fn results(&self) -> PathBuf {
        self.results.clone()
    }

    fn scenarios(&self) -> Vec<String> {
        child::scenarios()
    }

    fn target(&self) -> String {
        trial::target(&self.run)
    }

    fn open_session(&self) -> Result<Box<dyn Session>, String> {
        trial::open(&self.run)
    }
}
