//! This program, as the page uses it: its commands as processes, and one session at the target.

use super::{
    child::{self, ChildRun},
    trial,
};
use crate::{amend, cli::RunArgs};
use std::{
    io,
    path::{Path, PathBuf},
};
use web::{Called, Program, Run, Session};

/// The kernel's name for this program. It stays valid when the file is replaced.
const THIS: &str = "/proc/self/exe";
/// Options that say where a run goes.
const TARGET: [&str; 3] = ["api-url", "wsproxy-url", "embedded"];
const FAULT_STACK: &str = "fault-stack";

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
    /// Returns the arguments of a run: those of the page's target, unless the form names another one, and those of the form. An option of
    /// the form replaces the page's.
    fn arguments(&self, of_form: &[String]) -> Vec<String> {
        let names_target =
            of_form.iter().any(|argument| flag(argument).is_some_and(|flag| TARGET.contains(&flag)));
        let is_used = |argument: &&String| {
            let flag = flag(argument);
            let says_where = flag.is_some_and(|flag| TARGET.contains(&flag) || flag == FAULT_STACK);
            let is_replaced =
                flag == Some(FAULT_STACK) && of_form.iter().any(|other| self::flag(other) == flag);
            !(names_target && says_where || is_replaced)
        };
        let results = format!("--output-dir={}", self.results.display());
        [results].iter().chain(self.target.iter().filter(is_used)).chain(of_form).cloned().collect()
    }
}

/// Returns the flag of an argument `--flag=value`.
fn flag(argument: &str) -> Option<&str> {
    let flag = argument.strip_prefix("--")?;
    Some(flag.split_once('=').map_or(flag, |(flag, _)| flag))
}

/// Returns the arguments that say where a run goes, in one order.
fn target_of(arguments: &[String]) -> Vec<String> {
    let says_where =
        |argument: &&String| flag(argument).is_some_and(|flag| TARGET.contains(&flag) || flag == "scenario");
    let mut target: Vec<_> = arguments.iter().filter(says_where).cloned().collect();
    target.sort();
    target
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
        let arguments = self.arguments(arguments);
        Ok(Box::new(ChildRun::start(Path::new(THIS), &self.results, &target_of(&arguments), &arguments)?))
    }

    fn going_on(&self) -> Vec<String> {
        amend::running()
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

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(arguments: &[&str]) -> Vec<String> {
        arguments.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_form_replaces_the_target_of_the_page_and_keeps_what_it_may_test() {
        let target = texts(&["--api-url=http://a", "--i-am-allowed-to-load-test=a", "--fault-stack=one"]);
        let program = ThisProgram { results: "r".into(), target, run: RunArgs::default(), starts_runs: true };
        let of = |form: &[&str]| program.arguments(&texts(form));
        let page =
            ["--output-dir=r", "--api-url=http://a", "--i-am-allowed-to-load-test=a", "--fault-stack=one"];
        assert_eq!(of(&["--clients=1"]), [&page[..], &["--clients=1"]].concat());
        assert_eq!(of(&["--embedded"]), ["--output-dir=r", "--i-am-allowed-to-load-test=a", "--embedded"]);
        assert_eq!(of(&["--fault-stack=two"]), [&page[..3], &["--fault-stack=two"]].concat());
        assert_eq!(target_of(&of(&["--clients=1"])), ["--api-url=http://a"]);
        assert_eq!(target_of(&of(&["--wsproxy-url=b", "--api-url=a"])), ["--api-url=a", "--wsproxy-url=b"]);
    }
}
