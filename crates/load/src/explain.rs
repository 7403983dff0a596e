//! Says what went wrong on the way to a server, and what a foreign server answered, in a sentence for a person.
//! Makes no call and decides nothing beyond whether another attempt can help.

use http::{HeaderMap, StatusCode, header};
use protocol::ErrorBody;
use rustls::CertificateError;
use std::{error::Error, io};

/// The part of a foreign text that is shown, in characters.
const SHOWN: usize = 200;

/// A call that failed before there was an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// What went wrong.
    pub text: String,
    /// TLS was refused: another attempt ends in the same way.
    pub is_lasting: bool,
}

/// What `error` was caused by.
pub fn trouble(error: &(dyn Error + 'static)) -> Trouble {
    let mut cause = error;
    loop {
        if let Some(tls) = tls_error(cause).and_then(explain_tls) {
            return Trouble { text: tls, is_lasting: true };
        }
        match cause.source() {
            Some(inner) => cause = inner,
            // The outer causes repeat the URL.
            None => return Trouble { text: cause.to_string(), is_lasting: false },
        }
    }
}

/// An I/O error hides what it was made of from `source`.
fn tls_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    if let Some(tls) = error.downcast_ref() {
        return Some(tls);
    }
    tls_error(error.downcast_ref::<io::Error>()?.get_ref()?)
}

fn explain_tls(error: &rustls::Error) -> Option<String> {
    let rustls::Error::InvalidCertificate(why) = error else {
        return matches!(error, rustls::Error::InvalidMessage(_)).then(|| {
            format!("the server does not speak TLS at this port ({error}): use http:// and ws:// there")
        });
    };
    let (what, remedy) = match why {
        CertificateError::UnknownIssuer => (
            "is not trusted, because its issuer is unknown".to_owned(),
            "name the certificate of the CA that issued it with --ca-file FILE",
        ),
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            ("has expired".to_owned(), "renew it, or check this machine's clock")
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            ("is not valid yet".to_owned(), "check this machine's clock")
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            (format!("is not valid for this host ({why})"), "use a host name that the certificate lists")
        }
        _ => (
            format!("is not valid ({why})"),
            "if it is one of your own, name the certificate of its CA with --ca-file FILE; a CA's certificate cannot be the server's own",
        ),
    };
    Some(format!("the server's certificate {what}: {remedy}"))
}

/// An answer that is not a success: its status, where it redirects to, how long it asks to wait, and what it says.
pub fn refusal(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> String {
    let wait = headers.get(header::RETRY_AFTER).and_then(|wait| wait.to_str().ok());
    let wait = wait.map(|wait| format!(", Retry-After: {}", cut(wait))).unwrap_or_default();
    let location = headers.get(header::LOCATION).filter(|_| status.is_redirection());
    let location = location.map(|location| String::from_utf8_lossy(location.as_bytes()).into_owned());
    match location {
        Some(location) => {
            format!(
                "{status}, Location: {}: redirects are not followed, name that address itself",
                cut(&location)
            )
        }
        None => format!("{status}{wait}{}", detail(body)),
    }
}

/// `: ` and what a body says, if it says anything.
pub fn detail(body: &[u8]) -> String {
    let text = match serde_json::from_slice::<ErrorBody>(body) {
        Ok(error) => error.detail,
        Err(_) => first_text(body),
    };
    let text = cut(text.trim());
    if text.is_empty() { text } else { format!(": {text}") }
}

/// A body that could not be read as the JSON that was expected.
pub fn unreadable(body: &[u8], error: &serde_json::Error) -> String {
    if body.trim_ascii().is_empty() {
        return "the answer is empty".to_owned();
    }
    if is_html(body) {
        return format!("the answer is an HTML page, not JSON{}", detail(body));
    }
    format!("cannot read the answer ({error}){}", detail(body))
}

fn is_html(body: &[u8]) -> bool {
    body.trim_ascii_start().starts_with(b"<")
}

/// The first line of an HTML page that a person would see, its title first; another text as it is.
fn first_text(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    if !is_html(body) {
        return text.into_owned();
    }
    let mut visible = String::new();
    let mut rest = &*text;
    while let Some(start) = rest.find('<') {
        visible.push_str(&rest[..start]);
        let tag = &rest[start..];
        let name: String = tag[1..].chars().take_while(char::is_ascii_alphanumeric).collect();
        let name = name.to_ascii_lowercase();
        // What is between these is for machines.
        let end = match name.as_str() {
            "script" | "style" => find_ignoring_case(tag, &format!("</{name}")),
            _ => None,
        };
        let from = end.unwrap_or(0);
        let Some(close) = tag[from..].find('>') else {
            rest = "";
            break;
        };
        rest = &tag[from + close + 1..];
        if !is_inline(tag) {
            visible.push('\n');
        }
    }
    visible.push_str(rest);
    let line = visible.lines().map(str::trim).find(|line| !line.is_empty());
    line.unwrap_or_default().to_owned()
}

/// Whether text goes on in the same line behind a tag.
fn is_inline(tag: &str) -> bool {
    let name = tag.trim_start_matches(['<', '/']);
    let name: String = name.chars().take_while(char::is_ascii_alphanumeric).collect();
    ["a", "b", "code", "em", "i", "span", "strong"].contains(&name.to_ascii_lowercase().as_str())
}

fn find_ignoring_case(text: &str, what: &str) -> Option<usize> {
    text.to_ascii_lowercase().find(what)
}

fn cut(text: &str) -> String {
    text.chars().take(SHOWN).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_redirect_names_where_to() {
        let mut headers = HeaderMap::new();
        headers.insert(header::LOCATION, "https://host.test/login".parse().unwrap());
        let text = refusal(StatusCode::FOUND, &headers, b"<html>moved</html>");
        assert!(text.starts_with("302 Found, Location: https://host.test/login"), "{text}");
        let created = refusal(StatusCode::BAD_REQUEST, &headers, b"");
        assert_eq!(created, "400 Bad Request", "no redirect, whatever it names");
    }

    #[test]
    fn a_page_is_told_by_its_first_line() {
        for (body, line) in [
            (r#"{"detail":"full"}"#, ": full"),
            ("plain text", ": plain text"),
            ("", ""),
            ("<html></html>", ""),
            (
                "<html><body><h1>503 Service Unavailable</h1>\nNo server is available.\n</body></html>\n",
                ": 503 Service Unavailable",
            ),
            (
                "<!DOCTYPE html>\n<html>\n<head><style>a < b {}</style><SCRIPT>x > 1</SCRIPT>\n<title>\n Sign <b>in</b> here\n</title></head>",
                ": Sign in here",
            ),
            ("<p>cut off in a <tag", ": cut off in a"),
        ] {
            assert_eq!(detail(body.as_bytes()), line, "{body}");
        }
    }

    #[test]
    fn an_answer_that_is_not_json_is_told_by_what_it_is() {
        let error = || serde_json::from_slice::<u8>(b"<").unwrap_err();
        assert_eq!(unreadable(b" \n", &error()), "the answer is empty");
        let page = unreadable(b"<html><title>Login</title>", &error());
        assert_eq!(page, "the answer is an HTML page, not JSON: Login");
        assert!(unreadable(b"OK", &error()).ends_with("): OK"));
    }

    #[test]
    fn certificates_are_found_however_deep_they_lie() {
        let untrusted = || rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer);
        let inner = io::Error::new(io::ErrorKind::InvalidData, untrusted());
        for error in [inner, io::Error::other(io::Error::other(untrusted()))] {
            let trouble = trouble(&error);
            assert!(trouble.is_lasting && trouble.text.contains("--ca-file"), "{trouble:?}");
            assert!(trouble.text.contains("certificate is not trusted"), "{trouble:?}");
        }
        let expired = rustls::Error::InvalidCertificate(CertificateError::Expired);
        assert!(trouble(&expired).text.contains("certificate has expired"));
        let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
        assert_eq!(trouble(&refused), Trouble { text: "connection refused".into(), is_lasting: false });
    }

    proptest! {
        #[test]
        fn no_body_panics(body in prop::collection::vec(any::<u8>(), 0..200), page in "<[<>/a-z !é]{0,80}") {
            prop_assert!(detail(&body).chars().count() <= SHOWN + 2);
            prop_assert!(detail(page.as_bytes()).chars().count() <= SHOWN + 2);
        }
    }
}
