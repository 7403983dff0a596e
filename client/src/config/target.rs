//! Where a run's calls and sockets go, validated: URLs, the socket's path, headers, the token.
//! It opens no connection and looks up no host.

use super::{Target, addresses, check::Check};
use crate::{cli::RunArgs, secret::Secret};
use http::{HeaderMap, HeaderName, HeaderValue};

/// Everything about the target, or nothing where a URL is none.
pub(super) fn target(check: &mut Check, args: RunArgs, warnings: &mut Vec<String>) -> Option<Target> {
    let api_url = match (args.api_url, args.fastapi_url) {
        (Some(url), _) => url,
        (None, Some(old)) => {
            warnings.push("FASTAPI_URL is the old name: use API_URL or --api-url".into());
            old
        }
        (None, None) => "http://127.0.0.1:8080".into(),
    };
    let api = check.url("--api-url", &api_url, ["http", "https"]);
    let mut ws_urls: Vec<_> =
        args.wsproxy_url.iter().map(|url| url.trim()).filter(|url| !url.is_empty()).collect();
    if ws_urls.is_empty() {
        ws_urls.push("ws://127.0.0.1:8081");
    }
    let ws: Option<Vec<_>> =
        ws_urls.iter().map(|url| check.url("--wsproxy-url", url, ["ws", "wss"])).collect();
    let ws_path = args.ws_path.unwrap_or_else(|| "/{agent}/ws/{session}".into());
    let printable = ws_path.bytes().all(|b| b.is_ascii_graphic());
    if !ws_path.starts_with('/') || !ws_path.contains("{session}") || !printable {
        check.fault(format!(
            "--ws-path `{ws_path}` must start with `/`, contain `{{session}}` and no white space"
        ));
    }
    let agent = args.agent.unwrap_or_else(|| "load".into());
    if agent.is_empty() || !agent.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.~".contains(&b)) {
        check.fault(format!("--agent `{agent}` must be letters, digits and `-_.~`"));
    }
    let mut headers = HeaderMap::new();
    for header in args.headers.iter().filter(|header| !header.trim().is_empty()) {
        match parse_header(header) {
            Some((name, value)) => {
                headers.append(name, value);
            }
            None => check.fault(format!(
                "--header `{}` is not of the form `Name: value`",
                header.split(':').next().unwrap_or_default()
            )),
        }
    }
    if let Some(token) = &args.token
        && HeaderValue::from_str(token).is_err()
    {
        check.fault("--token has characters that no header can carry".into());
    }
    let local_ips = addresses::parse(args.local_ips.as_deref().unwrap_or_default()).unwrap_or_else(|why| {
        check.fault(format!("--local-ips: {why}"));
        Vec::new()
    });
    let mut ws = ws?.into_iter();
    Some(Target {
        api: api?,
        ws: ws.next()?,
        more_ws: ws.collect(),
        published: Vec::new(),
        ws_path,
        agent,
        headers,
        token: args.token.map(Secret::new),
        ca_file: args.ca_file,
        http_connections: check.count("--http-connections", args.http_connections, 1000, 1, 1_000_000)
            as usize,
        local_ips,
        allowed_hosts: args.i_am_allowed_to_load_test,
    })
}

fn parse_header(header: &str) -> Option<(HeaderName, HeaderValue)> {
    let (name, value) = header.split_once(':')?;
    Some((name.trim().parse().ok()?, value.trim().parse().ok()?))
}
