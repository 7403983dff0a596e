//! Validates how to talk to a server of a foreign dialect.

use super::check::Check;
use crate::cli::RunArgs;
use dialects::{
    Dialect, Transport,
    target::{BUILTIN, TargetFile, builtin},
};
use http::HeaderValue;
use plan::Foreign;
use settings::secret::Secret;
use std::sync::Arc;

/// The name of the project's own contract.
const OWN: &str = "streamstress";
/// The model of the simulator.
const SIMULATED_MODEL: &str = "sim";
/// Upper limit of the tokens of an answer.
const MOST_TOKENS: i64 = 1_000_000;

/// Reads the options of a foreign dialect. `None` if the server speaks the project's own contract.
pub(super) fn foreign(check: &mut Check, args: &RunArgs) -> Option<Foreign> {
    if let Some(target) = &args.target {
        return described(check, args, target);
    }
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
        refuse(check, &only_foreign(args), "needs --target, or a --dialect other than streamstress");
        return None;
    };
    let why = format!("does not apply to --dialect {dialect}");
    if args.wsproxy_url.iter().any(|url| !url.trim().is_empty()) {
        check.error(format!("--wsproxy-url {why}: remove it"));
    }
    refuse(check, &only_own(args), &format!("{why}: remove it"));
    if args.background && !dialect.can_resume() {
        check.error(format!("--background {why}: use it with openai-responses, or remove it"));
    }
    key(check, args);
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

/// Reads the target file and its options. `None` if it is invalid.
fn described(check: &mut Check, args: &RunArgs, target: &str) -> Option<Foreign> {
    if args.dialect.is_some() {
        check.error("--dialect and --target exclude each other: use one of them".into());
    }
    let why = "does not apply to --target";
    refuse(check, &only_own(args), &format!("{why}: remove it"));
    let only_simulator =
        [("--background", args.background), ("--simulator", args.simulator), ("--embedded", args.embedded)];
    refuse(check, &only_simulator, &format!("{why}: the file tells how to talk to the backend"));
    key(check, args);
    let max_tokens =
        args.max_tokens.map(|most| check.count("--max-tokens", Some(most), 1, 1, MOST_TOKENS) as u32);
    let file = match read(target) {
        Ok(file) => file,
        Err(errors) => {
            errors.into_iter().for_each(|error| check.error(format!("--target {target}: {error}")));
            return None;
        }
    };
    let has_ws_url = args.wsproxy_url.iter().any(|url| !url.trim().is_empty());
    if has_ws_url && file.transport != Transport::WebSocket {
        check.error(format!(
            "--wsproxy-url does not apply to --target {target}, whose answers come over HTTP"
        ));
    }
    if args.api_url.is_empty() && !has_ws_url && file.api_url.is_none() && file.ws_url.is_none() {
        check
            .error(format!("--target {target}: no URL: add `api_url` or `ws_url` to the file, or --api-url"));
    }
    Some(Foreign {
        dialect: Dialect::File(Arc::new(file)),
        model: args.model.clone().unwrap_or_default(),
        api_key: args.api_key.as_deref().map(Secret::new),
        token_command: args.token_command.as_deref().map(Secret::new),
        max_tokens,
        background: false,
        is_simulator: false,
    })
}

/// Reads a target file: a path, or the name of a built-in file.
fn read(target: &str) -> Result<TargetFile, Vec<String>> {
    let built_in = builtin(target).map(|file| file.text.to_owned());
    let text = built_in.map_or_else(|| std::fs::read_to_string(target), Ok).map_err(|error| {
        let names: Vec<_> = BUILTIN.iter().map(|file| file.name).collect();
        vec![format!("cannot read the file: {error} (built-in files: {})", names.join(", "))]
    })?;
    TargetFile::parse(&text, &|name| std::env::var(name).ok()).map_err(|bad| bad.0)
}

/// Returns the base URLs of a target file's HTTP calls and WebSockets, without those that the options replace.
pub(super) fn urls(foreign: &Foreign, args: &RunArgs) -> Option<(Vec<String>, Vec<String>)> {
    let file = foreign.dialect.file()?;
    let with_scheme = |url: &String, from: &str, to: &str| match url.strip_prefix(from) {
        Some(rest) => format!("{to}{rest}"),
        None => url.clone(),
    };
    // A file with one of both URLs uses it for both.
    let (api, ws) = (file.api_url.iter().cloned().collect(), file.ws_url.iter().cloned().collect());
    let given_ws: Vec<_> = args.wsproxy_url.iter().filter(|url| !url.trim().is_empty()).cloned().collect();
    let (given_api, has_both) = (args.api_url.clone(), file.api_url.is_some() && file.ws_url.is_some());
    let or = |first: Vec<String>, second: Vec<String>| if first.is_empty() { second } else { first };
    let replaced = |own: Vec<String>, given: Vec<String>, other: &Vec<String>| {
        // Either option replaces the only URL of a file.
        if given.is_empty() && !has_both && !other.is_empty() { other.clone() } else { or(given, own) }
    };
    let apis = replaced(api, given_api.clone(), &given_ws);
    let sockets = replaced(ws, given_ws, &given_api);
    let (apis, sockets) = (or(apis.clone(), sockets.clone()), or(sockets, apis));
    let apis = apis.iter().map(|url| with_scheme(url, "ws", "http")).collect();
    let sockets = sockets.iter().map(|url| with_scheme(url, "http", "ws")).collect();
    Some((apis, sockets))
}

fn key(check: &mut Check, args: &RunArgs) {
    if args.api_key.as_deref().is_some_and(|key| HeaderValue::from_str(key).is_err()) {
        check.error(
            "--api-key contains characters that a header cannot carry: expected visible ASCII characters"
                .into(),
        );
    }
}

/// Returns what no output may contain.
pub(super) fn secrets(foreign: &Foreign) -> impl Iterator<Item = &str> {
    let of_file = foreign.dialect.file().into_iter().flat_map(|file| file.secrets());
    foreign.api_key.iter().chain(&foreign.token_command).map(Secret::reveal).chain(of_file)
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
fn only_own(args: &RunArgs) -> [(&'static str, bool); 6] {
    [
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

    /// Reads the options as a run does.
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
        assert_eq!((&foreign.dialect, foreign.api_key.unwrap().reveal()), (&Dialect::Chat, "sk-hush"));
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
            "--model needs --target, or a --dialect other than streamstress"
        );
        let ws = RunArgs { wsproxy_url: vec!["ws://a".into()], ..of("openai-chat") };
        assert!(error(ws).starts_with("--wsproxy-url does not apply"));
        assert!(
            error(RunArgs { ws_path: Some("/x".into()), ..of("openai-chat") })
                .starts_with("--ws-path does not apply")
        );
        assert!(error(RunArgs { background: true, ..of("openai-chat") }).contains("openai-responses"));
        assert!(read(&RunArgs { background: true, ..of("openai-responses") }).is_ok());
        assert!(error(RunArgs { api_key: Some("a\nb".into()), ..of("openai-chat") }).contains("--api-key"));
        assert!(error(RunArgs { max_tokens: Some(0), ..of("openai-chat") }).contains("--max-tokens 0"));
    }

    #[test]
    fn a_target_file_has_urls_that_options_replace() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let rest = builtin("centrifugo").unwrap().text.replace("ws_url = ", "#");
        let urls_of = |own: &str, api: &[&str], ws: &[&str]| {
            std::fs::write(file.path(), format!("{own}\n{rest}")).unwrap();
            let owned = |urls: &[&str]| urls.iter().map(ToString::to_string).collect();
            let args = RunArgs {
                target: Some(file.path().to_str().unwrap().to_owned()),
                api_url: owned(api),
                wsproxy_url: owned(ws),
                ..RunArgs::default()
            };
            let foreign = read(&args).map_err(|errors| errors.concat())?;
            let (api, ws) = urls(&foreign.unwrap(), &args).unwrap();
            Ok::<_, String>(format!("{} {}", api.join(","), ws.join(",")))
        };
        let one = "ws_url = \"ws://a:1/x\"";
        let both = "api_url = \"http://a:1\"\nws_url = \"wss://b:2\"";
        for (own, api, ws, expected) in [
            (one, &[][..], &[][..], "http://a:1/x ws://a:1/x"),
            (one, &["https://c:3"][..], &[][..], "https://c:3 wss://c:3"),
            (one, &[][..], &["ws://c:3"][..], "http://c:3 ws://c:3"),
            (both, &[][..], &[][..], "http://a:1 wss://b:2"),
            (both, &["http://c:3"][..], &[][..], "http://c:3 wss://b:2"),
            (both, &["http://c:3", "http://c:4"][..], &["ws://d:4"][..], "http://c:3,http://c:4 ws://d:4"),
            ("", &["http://c:3"][..], &[][..], "http://c:3 ws://c:3"),
        ] {
            assert_eq!(urls_of(own, api, ws).unwrap(), expected, "{own} {api:?} {ws:?}");
        }
        assert!(urls_of("", &[], &[]).unwrap_err().contains("no URL"));
    }

    #[test]
    fn a_target_file_that_does_not_exist_or_is_wrong_is_refused() {
        let error = |target: &str| {
            read(&RunArgs { target: Some(target.into()), ..RunArgs::default() }).unwrap_err().join("; ")
        };
        assert!(error("/nowhere.toml").contains("built-in files: centrifugo"), "{}", error("/nowhere.toml"));
        let both = RunArgs { target: Some("centrifugo".into()), ..of("openai-chat") };
        assert!(read(&both).unwrap_err().concat().contains("exclude each other"));
        let own = RunArgs { target: Some("centrifugo".into()), rollup_ms: Some(40), ..RunArgs::default() };
        assert!(read(&own).unwrap_err().concat().contains("--rollup-ms does not apply to --target"));
    }
}
