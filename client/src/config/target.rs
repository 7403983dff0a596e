//! Validates where a run's calls and sockets go: URLs, the socket's path, headers, the token.
//! Opens no connection and looks up no host.

use super::{addresses, check::Check, dialect};
use crate::cli::RunArgs;
use dialects::Transport;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use plan::{Foreign, Target};
use settings::{
    address::Address,
    secret::{Secret, Secrets},
};

/// Headers whose values are shown in outputs. All others may be secret.
const OPEN_HEADERS: [HeaderName; 6] = [
    header::HOST,
    header::CONTENT_TYPE,
    header::ACCEPT,
    header::ORIGIN,
    header::USER_AGENT,
    header::SEC_WEBSOCKET_PROTOCOL,
];

/// Every how many tokens of a query are split by hop by default, so that the sampled ones cost little.
const DEFAULT_HOPS: i64 = 64;

/// Headers that frame a message or belong to the upgrade. The client needs its own values to read the response.
const FRAMING: [&str; 15] = [
    "connection",
    "content-encoding",
    "content-length",
    "expect",
    "http2-settings",
    "keep-alive",
    "proxy-connection",
    "sec-websocket-accept",
    "sec-websocket-extensions",
    "sec-websocket-key",
    "sec-websocket-version",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Reads the target. Returns `None` if a URL is invalid.
pub(super) fn target(check: &mut Check, args: RunArgs) -> Option<Target> {
    let foreign = dialect::foreign(check, &args);
    let (api, ws) = api_and_ws(check, &args, foreign.as_ref());
    let is_foreign = args.ws_path.is_some();
    let ws_path = ws_path(check, args.ws_path);
    let agent = args.agent.unwrap_or_else(|| "load".into());
    if agent.is_empty() || !agent.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.~".contains(&b)) {
        check.error(format!("invalid name \"{agent}\" for --agent: expected letters, digits and -_.~"));
    }
    let rollup_ms = args.rollup_ms.map(|ms| check.count("--rollup-ms", Some(ms), 0, 1, 1000) as u16);
    // Another gateway may give the parameter a different meaning.
    let is_named = is_foreign || !args.wsproxy_url.is_empty();
    let hops = hops(check, args.hops, is_named || foreign.is_some(), rollup_ms.is_some());
    let headers = headers(check, &args.headers);
    if let Some(token) = &args.auth_token
        && HeaderValue::from_str(token).is_err()
    {
        check.error(
            "--auth-token contains characters that a header cannot carry: expected visible ASCII characters"
                .into(),
        );
    }
    let token = args.auth_token.as_deref().map(Secret::new);
    let local_ips = addresses::parse(args.local_ips.as_deref().unwrap_or_default()).unwrap_or_else(|why| {
        check.error(format!("--local-ips: {why}"));
        Vec::new()
    });
    let ((api, more_api), (ws, more_ws)) = (api?, ws?);
    let addresses = [&api, &ws].into_iter().chain(&more_api).chain(&more_ws);
    let mut secrets = secrets(addresses, &ws_path, &headers, token.as_ref());
    for secret in foreign.iter().flat_map(dialect::secrets) {
        secrets.add(secret);
    }
    Some(Target {
        api,
        more_api,
        ws,
        more_ws,
        published: Vec::new(),
        ws_path,
        rollup_ms,
        hops,
        agent,
        headers,
        token,
        secrets,
        ca_file: args.ca_file,
        http_connections: check.count("--http-connections", args.http_connections, 1000, 1, 1_000_000)
            as usize,
        local_ips,
        allowed_hosts: args.i_am_allowed_to_load_test,
        foreign,
    })
}

/// Checks the path of the sockets.
fn ws_path(check: &mut Check, given: Option<String>) -> String {
    let path = given.unwrap_or_else(|| "/{agent}/ws/{session}".into());
    let printable = path.bytes().all(|b| b.is_ascii_graphic());
    if !path.starts_with('/') || !path.contains("{session}") || !printable {
        check.error(format!(
            "invalid path \"{path}\" for --ws-path: expected a leading `/`, `{{session}}` and no white space"
        ));
    }
    let query = path.split_once('?').map_or("", |(_, query)| query);
    for (parameter, option, what) in
        [("rollup", "--rollup-ms", "rolled frames"), ("hops", "--hops", "the times")]
    {
        if query.split('&').any(|pair| pair.split('=').next() == Some(parameter)) {
            check.error(format!(
                "--ws-path has the parameter `{parameter}`: use {option}, so that the client expects {what}"
            ));
        }
    }
    path
}

/// Addresses: the first one and the others. `None` if a URL is invalid.
type Addresses = Option<(Address, Vec<Address>)>;

/// Reads the addresses of calls and of sockets.
fn api_and_ws(check: &mut Check, args: &RunArgs, foreign: Option<&Foreign>) -> (Addresses, Addresses) {
    let described = foreign.and_then(|foreign| dialect::urls(foreign, args));
    let (api, ws) = described.unwrap_or_else(|| (args.api_url.clone(), args.wsproxy_url.clone()));
    let is_from_file = foreign.is_some_and(|foreign| foreign.dialect.file().is_some())
        && args.api_url.is_empty()
        && args.wsproxy_url.is_empty();
    let source = |flag| if is_from_file { "`api_url` or `ws_url` in the target file" } else { flag };
    let api = urls(check, source("--api-url"), &api, "http://127.0.0.1:8080", ["http", "https"]);
    let ws = urls(check, source("--wsproxy-url"), &ws, "ws://127.0.0.1:8081", ["ws", "wss"]);
    // A foreign server is one: calls, streams and sockets have the same URL, unless a target file has one for each.
    let has_sockets = foreign.is_none_or(|foreign| {
        foreign.dialect.file().is_some_and(|file| file.transport == Transport::WebSocket)
    });
    let ws = if has_sockets { ws } else { api.clone() };
    (api, ws)
}

/// Reads every how many tokens the gateway should add its times to. By default, a gateway at another path is not asked: a parameter
/// that it does not know may be an error there.
fn hops(check: &mut Check, given: Option<i64>, is_foreign: bool, is_rolled: bool) -> Option<u32> {
    if given.is_some_and(|every| every > 0) && is_rolled {
        check.error("--hops does not work with --rollup-ms, because a rolled frame carries no times of the gateway: use one of them".into());
    }
    let default = if is_foreign || is_rolled { 0 } else { DEFAULT_HOPS };
    let every = check.count("--hops", given, default, 0, i64::from(protocol::MAX_HOPS));
    u32::try_from(every).ok().filter(|&every| every > 0)
}

/// Reads the URLs of a flag or of a target file, or `default` if there are none. Returns the first one and the others. `None` if a URL is invalid.
fn urls(check: &mut Check, flag: &str, given: &[String], default: &str, schemes: [&str; 2]) -> Addresses {
    let mut texts: Vec<_> = given.iter().map(|url| url.trim()).filter(|url| !url.is_empty()).collect();
    // A variable that is unset in a script must not make the run load another stack.
    if flag == "--api-url" && texts.len() < given.len() {
        check.error(format!("invalid URL \"\" for {flag}: expected for example {default}"));
        return None;
    }
    if texts.is_empty() {
        texts.push(default);
    }
    // Reads all before the first error returns, so that each invalid URL is reported.
    let urls: Vec<_> = texts.into_iter().map(|text| check.url(flag, text, schemes)).collect();
    let mut addresses = urls.into_iter().collect::<Option<Vec<_>>>()?.into_iter().map(Address::new);
    Some((addresses.next()?, addresses.collect()))
}

fn headers(check: &mut Check, given: &[String]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for header in given.iter().filter(|header| !header.trim().is_empty()) {
        match parse_header(header) {
            Some((name, _)) if FRAMING.contains(&name.as_str()) => check.error(format!(
                "--header `{name}` cannot be replaced, because it frames the messages: remove it"
            )),
            Some((name, _)) if name == "last-event-id" => check.error(
                "--header `last-event-id` would make every socket resume at the same position: remove it, or use --no-resume"
                    .into(),
            ),
            Some((name, mut value)) => {
                value.set_sensitive(!OPEN_HEADERS.contains(&name));
                headers.append(name, value);
            }
            // Shows only the first word, because the rest may be secret.
            None => check.error(format!(
                "invalid header \"{}…\" for --header: expected `Name: value`",
                header.trim().split([':', ' ', '=']).next().unwrap_or_default()
            )),
        }
    }
    headers
}

/// Returns all parts of the target that no output may contain.
fn secrets<'a>(
    addresses: impl Iterator<Item = &'a Address>,
    ws_path: &str,
    headers: &HeaderMap,
    token: Option<&Secret>,
) -> Secrets {
    let mut secrets = Secrets::default();
    addresses.for_each(|address| secrets.extend(address.secrets()));
    if let Some(token) = token {
        secrets.add(token.reveal());
    }
    for (_, value) in headers.iter().filter(|(name, _)| !OPEN_HEADERS.contains(name)) {
        let value = String::from_utf8_lossy(value.as_bytes());
        secrets.add(&value);
        // Without its scheme, as in `Bearer …`.
        secrets.add(value.split_once(' ').map_or("", |(_, credentials)| credentials));
    }
    for (_, value) in ws_path.split(['?', '&']).filter_map(|pair| pair.split_once('=')) {
        if !value.contains('{') {
            secrets.add(value);
        }
    }
    secrets
}

fn parse_header(header: &str) -> Option<(HeaderName, HeaderValue)> {
    let (name, value) = header.split_once(':')?;
    Some((name.trim().parse().ok()?, value.trim().parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(args: RunArgs) -> Result<Target, Vec<String>> {
        let mut check = Check::default();
        let target = target(&mut check, args);
        if check.errors.is_empty() { Ok(target.unwrap()) } else { Err(check.errors) }
    }

    fn with_headers(headers: &[&str]) -> Result<Target, Vec<String>> {
        parsed(RunArgs {
            headers: headers.iter().map(|&text| text.to_owned()).collect(),
            ..RunArgs::default()
        })
    }

    #[test]
    fn framing_headers_are_refused_by_name() {
        for name in [
            "Content-Length",
            "Transfer-Encoding",
            "Connection",
            "Upgrade",
            "Sec-WebSocket-Key",
            "Sec-WebSocket-Version",
            "Sec-WebSocket-Extensions",
            "Last-Event-ID",
        ] {
            let faults = with_headers(&[&format!("{name}: hush")]).unwrap_err();
            assert_eq!(faults.len(), 1);
            assert!(
                faults[0].contains(&name.to_ascii_lowercase()) && !faults[0].contains("hush"),
                "{faults:?}"
            );
        }
        let ours = [
            "Host: a.test",
            "Authorization: Basic x",
            "Content-Type: text/json",
            "Sec-WebSocket-Protocol: v1",
        ];
        assert_eq!(with_headers(&ours).unwrap().headers.len(), 4);
    }

    #[test]
    fn a_header_that_is_none_does_not_tell_its_value() {
        let faults = with_headers(&["Authorization Bearer hush", "X-Key=hush"]).unwrap_err();
        assert!(faults[0].contains("\"Authorization…\"") && faults[1].contains("\"X-Key…\""), "{faults:?}");
        assert!(!faults.concat().contains("hush"), "{faults:?}");
    }

    #[test]
    fn our_own_gateways_alone_are_asked_for_hops_by_default() {
        let hops = |hops, ws_path: Option<&str>, rollup_ms| {
            parsed(RunArgs { hops, ws_path: ws_path.map(Into::into), rollup_ms, ..RunArgs::default() })
                .map(|target| target.hops)
                .map_err(|errors| errors.concat())
        };
        assert_eq!(hops(None, None, None), Ok(Some(64)));
        let named = RunArgs { wsproxy_url: vec!["ws://127.0.0.1:9".into()], ..RunArgs::default() };
        assert_eq!(parsed(named).map(|target| target.hops), Ok(None));
        assert_eq!(hops(Some(0), None, None), Ok(None));
        assert_eq!(hops(None, Some("/{session}"), None), Ok(None));
        assert_eq!(hops(Some(5), Some("/{session}"), None), Ok(Some(5)));
        assert_eq!(hops(None, None, Some(40)), Ok(None));
        assert!(hops(Some(5), None, Some(40)).unwrap_err().contains("--rollup-ms"));
        for every in [-1, 1_000_001] {
            assert!(hops(Some(every), None, None).unwrap_err().contains("from 0 to 1000000"));
        }
        assert!(hops(None, Some("/{session}?x=1&hops=4"), None).unwrap_err().contains("--hops"));
    }

    #[test]
    fn a_rollup_is_an_option_and_no_part_of_the_path() {
        let rollup = |ms, path: &str| {
            parsed(RunArgs { rollup_ms: ms, ws_path: Some(path.into()), ..RunArgs::default() })
                .map(|target| target.rollup_ms)
                .map_err(|errors| errors.concat())
        };
        assert_eq!(rollup(None, "/{session}?rollups=1"), Ok(None));
        assert_eq!(rollup(Some(40), "/{session}?x=rollup"), Ok(Some(40)));
        for ms in [0, 1001, -1] {
            assert!(rollup(Some(ms), "/{session}").unwrap_err().contains("from 1 to 1000"));
        }
        assert!(rollup(None, "/{session}?x=1&rollup=40").unwrap_err().contains("--rollup-ms"));
    }

    #[test]
    fn everything_secret_of_a_target_is_known() {
        let target = parsed(RunArgs {
            api_url: vec![
                "http://user:pass-word@127.0.0.1/?sig=signature".into(),
                "http://:pass-two@127.0.0.1".into(),
            ],
            ws_path: Some("/{session}?key=path-key&token={token}".into()),
            headers: vec!["Authorization: Token head-er".into(), "Host: name.test".into()],
            auth_token: Some("Bearer to-ken".into()),
            ..RunArgs::default()
        });
        let echo = "pass-word pass-two signature path-key Token head-er head-er to-ken name.test {token}";
        let hidden = target.unwrap().secrets.hide(echo);
        assert_eq!(
            hidden,
            "redacted redacted redacted redacted redacted redacted redacted name.test {token}"
        );
    }
}
