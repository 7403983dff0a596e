//! Validates how to talk to a server of a foreign dialect.

use super::check::Check;
use crate::cli::RunArgs;
use dialects::Dialect;
use http::HeaderValue;
use plan::Foreign;
use settings::secret::Secret;

/// The name of the project's own contract.
const OWN: &str = "streamstress";
/// The model of the simulator.
const SIMULATED_MODEL: &str = "sim";
/// Upper limit of the tokens of an answer.
const MOST_TOKENS: i64 = 1_000_000;

/// Reads the options of a foreign dialect. `None` if the server speaks the project's own contract.
pub(super) fn foreign(check: &mut Check, args: &RunArgs) -> Option<Foreign> {
    let name = args.dialect.as_deref().unwrap_or(OWN);
    let dialect = Dialect::named(name);
    if dialect.is_none() && name != OWN {
        let known: Vec<_> = Dialect::ALL.iter().map(|dialect| dialect.name()).collect();
        check
            .error(format!("unknown dialect \"{name}\" for --dialect: expected {OWN}, {}", known.join(", ")));
        return None;
    }
    let max_tokens =
        args.max_tokens.map(|most| check.count("--max-tokens", Some(most), 1, 1, MOST_TOKENS) as u32);
    let Some(dialect) = dialect else {
        refuse(check, &only_foreign(args), "needs a --dialect other than streamstress");
        return None;
    };
    let why = format!("does not apply to --dialect {dialect}");
    refuse(check, &only_own(args), &format!("{why}: remove it"));
    if args.background && !dialect.can_resume() {
        check.error(format!("--background {why}: use it with openai-responses, or remove it"));
    }
    if args.api_key.as_deref().is_some_and(|key| HeaderValue::from_str(key).is_err()) {
        check.error(
            "--api-key contains characters that a header cannot carry: expected visible ASCII characters"
                .into(),
        );
    }
    let is_simulator = args.simulator || args.embedded || args.api_url.is_empty();
    let default_model = if is_simulator { SIMULATED_MODEL } else { "" };
    Some(Foreign {
        dialect,
        model: args.model.as_deref().unwrap_or(default_model).to_owned(),
        api_key: args.api_key.as_deref().map(Secret::new),
        token_command: args.token_command.as_deref().map(Secret::new),
        max_tokens,
        background: args.background,
        is_simulator,
    })
}

/// Returns what no output may contain.
pub(super) fn secrets(foreign: &Foreign) -> impl Iterator<Item = &str> {
    foreign.api_key.iter().chain(&foreign.token_command).map(Secret::reveal)
}

/// Returns the options that only foreign dialects have, and whether each was given.
fn only_foreign(args: &RunArgs) -> [(&'static str, bool); 6] {
    [
        ("--model", args.model.is_some()),
        ("--api-key", args.api_key.is_some()),
        ("--token-command", args.token_command.is_some()),
        ("--max-tokens", args.max_tokens.is_some()),
        ("--background", args.background),
        ("--simulator", args.simulator),
    ]
}

/// Returns the options that only the project's own contract has, and whether each was given.
fn only_own(args: &RunArgs) -> [(&'static str, bool); 7] {
    [
        ("--wsproxy-url", args.wsproxy_url.iter().any(|url| !url.trim().is_empty())),
        ("--ws-path", args.ws_path.is_some()),
        ("--agent", args.agent.is_some()),
        ("--auth-token", args.auth_token.is_some()),
        ("--late-connect", args.late_connect.is_some()),
        ("--rollup-ms", args.rollup_ms.is_some()),
        ("--hops", args.hops.is_some_and(|every| every > 0)),
    ]
}

fn refuse(check: &mut Check, options: &[(&'static str, bool)], why: &str) {
    for (flag, _) in options.iter().filter(|(_, is_given)| *is_given) {
        check.error(format!("{flag} {why}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(args: &RunArgs) -> Result<Option<Foreign>, Vec<String>> {
        let mut check = Check::default();
        let foreign = foreign(&mut check, args);
        if check.errors.is_empty() { Ok(foreign) } else { Err(check.errors) }
    }

    fn of(dialect: &str) -> RunArgs {
        RunArgs { dialect: Some(dialect.into()), ..RunArgs::default() }
    }

    #[test]
    fn a_dialect_has_its_options() {
        assert!(read(&RunArgs::default()).unwrap().is_none());
        assert!(read(&of("streamstress")).unwrap().is_none());
        let foreign =
            read(&RunArgs { api_key: Some("Bearer sk-hush".into()), ..of("openai-chat") }).unwrap().unwrap();
        assert_eq!((foreign.dialect, foreign.api_key.unwrap().reveal()), (Dialect::Chat, "sk-hush"));
        assert_eq!(foreign.model, "sim");
        assert!(foreign.is_simulator, "the default URL is that of the project's own stack");
        let named = RunArgs { api_url: vec!["https://api.example".into()], ..of("openai-chat") };
        let foreign = read(&named).unwrap().unwrap();
        assert!(!foreign.is_simulator && foreign.model.is_empty());
        assert!(read(&RunArgs { simulator: true, ..named }).unwrap().unwrap().is_simulator);
    }

    #[test]
    fn options_of_another_dialect_are_refused() {
        let error = |args: RunArgs| read(&args).unwrap_err().concat();
        assert_eq!(
            error(of("openai")),
            "unknown dialect \"openai\" for --dialect: expected streamstress, openai-chat, openai-responses, openai-responses-ws"
        );
        assert_eq!(
            error(RunArgs { model: Some("m".into()), ..RunArgs::default() }),
            "--model needs a --dialect other than streamstress"
        );
        assert!(
            error(RunArgs { ws_path: Some("/x".into()), ..of("openai-chat") })
                .starts_with("--ws-path does not apply")
        );
        assert!(error(RunArgs { background: true, ..of("openai-chat") }).contains("openai-responses"));
        assert!(read(&RunArgs { background: true, ..of("openai-responses") }).is_ok());
        assert!(error(RunArgs { api_key: Some("a\nb".into()), ..of("openai-chat") }).contains("--api-key"));
        assert!(error(RunArgs { max_tokens: Some(0), ..of("openai-chat") }).contains("--max-tokens 0"));
    }
}
