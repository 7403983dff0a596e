//! The files of the page, compiled into the program. The style of reports comes first, so that page and report look alike.

use crate::page::Page;
use axum::{Router, http::header::CONTENT_TYPE, response::IntoResponse, routing::get};
use std::sync::Arc;

const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";

/// Path, type and contents of each file.
const FILES: [(&str, &str, &str); 13] = [
    ("/", "text/html; charset=utf-8", include_str!("../assets/index.html")),
    ("/icon.svg", "image/svg+xml", include_str!("../assets/icon.svg")),
    ("/report.css", STYLE, report::html::STYLE),
    ("/page.css", STYLE, include_str!("../assets/page.css")),
    ("/main.js", SCRIPT, include_str!("../assets/main.js")),
    ("/server.js", SCRIPT, include_str!("../assets/server.js")),
    ("/dom.js", SCRIPT, include_str!("../assets/dom.js")),
    ("/chart.js", SCRIPT, include_str!("../assets/chart.js")),
    ("/now.js", SCRIPT, include_str!("../assets/now.js")),
    ("/start.js", SCRIPT, include_str!("../assets/start.js")),
    ("/history.js", SCRIPT, include_str!("../assets/history.js")),
    ("/query.js", SCRIPT, include_str!("../assets/query.js")),
    ("/trial.js", SCRIPT, include_str!("../assets/trial.js")),
];

/// Returns the routes of the files.
pub(crate) fn router() -> Router<Arc<Page>> {
    FILES.into_iter().fold(Router::new(), |router, (path, kind, contents)| {
        router.route(path, get(move || async move { ([(CONTENT_TYPE, kind)], contents).into_response() }))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_small_and_has_nothing_inline_or_foreign() {
        let bytes: usize = FILES.iter().map(|(_, _, contents)| contents.len()).sum();
        assert!(bytes < 100_000, "{bytes} bytes");
        let page = FILES[0].2;
        for inline in ["<style", " style=", "<script>", " onclick", "javascript:"] {
            assert!(!page.contains(inline), "{inline}");
        }
        for (path, _, contents) in FILES {
            let namespace = "http://www.w3.org/";
            let others = contents.replace(namespace, "");
            assert!(
                !others.contains("http://") && !others.contains("https://"),
                "{path} names another origin"
            );
            for unsafe_way in ["innerHTML", "outerHTML", "insertAdjacentHTML", "eval(", "document.write"] {
                assert!(!contents.contains(unsafe_way), "{path} uses {unsafe_way}");
            }
        }
    }
}
