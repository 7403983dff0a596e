//! Classifies error replies of Redis: whether the writer should wait, give up, or find out more.

/// The kind of a refusal, according to the code at the beginning of Redis' error reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The whole instance refuses writes for now. The same call will be taken later.
    Passing,
    /// The call will never be taken.
    Final,
    /// The reply is not known. It counts as final if it lasts.
    Unknown,
}

const PASSING: [&str; 11] = [
    "READONLY",
    "NOREPLICAS",
    "MISCONF",
    "BUSY",
    "LOADING",
    "MASTERDOWN",
    "OOM",
    "TRYAGAIN",
    "CLUSTERDOWN",
    "NOSCRIPT",
    "NOMASTERLINK",
];

const WRONG_TYPE: &str = "WRONGTYPE";

/// Texts of replies with the plain code `ERR` to a call that is itself wrong.
const FINAL_TEXTS: [&str; 5] = [
    "syntax error",
    "wrong number of arguments",
    "unknown command",
    "Invalid stream ID",
    "the log lacks this event",
];

/// Codes for a command that the user may not run, or not without a password.
const DENIED: [&str; 3] = ["NOPERM", "NOAUTH", "WRONGPASS"];

/// Texts of replies with the plain code `ERR` to a script that runs such a command.
const DENIED_TEXTS: [&str; 3] =
    ["ACL failure in script", "The user executing the script can't", "has no permissions to"];

/// The error for an event that the log lacks although it holds later ones of the same query.
pub(crate) const HOLE: &str = "ERR the log lacks this event and holds later ones of its query";

impl Refusal {
    /// Classifies an error reply, for example `OOM command not allowed when used memory > 'maxmemory'.` Before version
    /// 7, Redis wraps the error of a call in a script: `ERR Error running script …: -OOM command …`.
    #[must_use]
    pub fn of(words: &str) -> Self {
        if PASSING.iter().any(|code| has_code(words, code)) || words.contains("max number of clients") {
            return Self::Passing;
        }
        let is_final = has_code(words, WRONG_TYPE) || is_denied(words);
        if is_final || FINAL_TEXTS.iter().any(|text| words.contains(text)) {
            return Self::Final;
        }
        Self::Unknown
    }

    /// Returns whether the refusal concerns one session only. A Redis that refuses for now, or that denies this user a
    /// command, refuses every session.
    #[must_use]
    pub fn concerns_one_session(words: &str) -> bool {
        Self::of(words) != Self::Passing && !is_denied(words)
    }

    /// Returns whether the instance cannot take writes again by itself, so that only another connection can help.
    #[must_use]
    pub fn needs_another_connection(words: &str) -> bool {
        ["READONLY", "NOREPLICAS"].iter().any(|code| words.starts_with(code))
    }

    /// Returns the word that names the cause, for logs: `OOM`.
    #[must_use]
    pub fn cause(words: &str) -> &str {
        words.split(' ').next().unwrap_or(words)
    }
}

fn has_code(words: &str, code: &str) -> bool {
    words.strip_prefix(code).is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
        || words.contains(&format!("-{code} "))
}

fn is_denied(words: &str) -> bool {
    DENIED.iter().any(|code| has_code(words, code)) || DENIED_TEXTS.iter().any(|text| words.contains(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_replies_are_classified() {
        for (words, refusal) in [
            ("READONLY You can't write against a read only replica.", Refusal::Passing),
            ("NOREPLICAS Not enough good replicas to write.", Refusal::Passing),
            (
                "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to",
                Refusal::Passing,
            ),
            ("BUSY Redis is busy running a script.", Refusal::Passing),
            ("LOADING Redis is loading the dataset in memory", Refusal::Passing),
            ("MASTERDOWN Link with MASTER is down", Refusal::Passing),
            ("OOM command not allowed when used memory > 'maxmemory'.", Refusal::Passing),
            ("ERR max number of clients reached", Refusal::Passing),
            ("ERR Error running script (call to f_1): @user_script:3: -READONLY You can't", Refusal::Passing),
            ("WRONGTYPE Operation against a key holding the wrong kind of value", Refusal::Final),
            ("BUSYKEY Target key name already exists.", Refusal::Unknown),
            ("NOPERM this user has no permissions to run the 'xadd' command", Refusal::Final),
            ("NOAUTH Authentication required.", Refusal::Final),
            (
                "ERR ACL failure in script: User default has no permissions to run the 'xadd' command",
                Refusal::Final,
            ),
            (
                "ERR The user executing the script can't run this command or subcommand script: 7e93b",
                Refusal::Final,
            ),
            ("ERR syntax error", Refusal::Final),
            (HOLE, Refusal::Final),
            ("ERR something new", Refusal::Unknown),
            ("", Refusal::Unknown),
        ] {
            assert_eq!(Refusal::of(words), refusal, "{words}");
        }
        for (words, one) in [
            ("WRONGTYPE Operation against a key holding the wrong kind of value", true),
            ("ERR something new", true),
            ("NOPERM this user has no permissions to run the 'xadd' command", false),
            ("ERR ACL failure in script: User default has no permissions to run", false),
            ("LOADING Redis is loading the dataset in memory", false),
        ] {
            assert_eq!(Refusal::concerns_one_session(words), one, "{words}");
        }
        assert_eq!(Refusal::cause("OOM command not allowed"), "OOM");
        assert!(Refusal::needs_another_connection("NOREPLICAS Not enough"));
        assert!(!Refusal::needs_another_connection("OOM command"));
    }
}
