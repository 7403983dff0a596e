//! Earlier runs: list, report, comparison, download and deletion.

use super::{Answer, blocking, call};
use crate::{history, links::LinkedFile, page::Page, refusal::Refusal};
use aws_lc_rs::digest::{SHA256, digest};
use axum::{
    Json,
    body::{Body, Bytes},
    extract::{Path, State},
    http::{
        HeaderValue,
        header::{CONTENT_DISPOSITION, CONTENT_SECURITY_POLICY, CONTENT_TYPE, X_FRAME_OPTIONS},
    },
    response::{IntoResponse, Response},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use futures_util::stream::unfold;
use rustix::fs::OFlags;
use serde::Deserialize;
use serde_json::{Value, json};
use std::{io, path::PathBuf, sync::Arc};
use tokio::{fs::File, io::AsyncReadExt};

/// Bytes that are read from a file at a time.
const PIECE: usize = 64 << 10;
/// Most runs on each side of a comparison.
const MOST_COMPARED: usize = 50;

pub(super) async fn history(State(page): State<Arc<Page>>) -> Answer {
    blocking(move || history::list(&page.program.results()).map(Value::Array).map_err(Refusal::broken)).await
}

pub(super) async fn delete(State(page): State<Arc<Page>>, Path(run): Path<String>) -> Answer {
    blocking(move || {
        page.runs.may_delete(&run)?;
        let found = history::find(&page.program.results(), &run)?;
        report::retention::delete(&found).map_err(Refusal::broken)?;
        Ok(json!({ "deleted": run }))
    })
    .await
}

/// The two sides of a comparison.
#[derive(Deserialize)]
pub(super) struct Compare {
    baseline: Vec<String>,
    candidate: Vec<String>,
}

pub(super) async fn compare(State(page): State<Arc<Page>>, Json(sides): Json<Compare>) -> Answer {
    let Compare { baseline, candidate } = sides;
    for side in [&baseline, &candidate] {
        if side.is_empty() || side.len() > MOST_COMPARED {
            return Err(Refusal::bad(format!("choose 1 to {MOST_COMPARED} runs for each side")));
        }
    }
    let results = page.program.results();
    let arguments = tokio::task::spawn_blocking(move || {
        let mut arguments = vec!["compare".to_owned(), "--baseline".to_owned()];
        arguments.extend(history::summaries(&results, &baseline)?);
        arguments.push("--candidate".to_owned());
        arguments.extend(history::summaries(&results, &candidate)?);
        Ok::<_, Refusal>(arguments)
    });
    call(&page, arguments.await.map_err(Refusal::broken)??).await
}

/// A file to link to. Without a name: the report of the run.
#[derive(Deserialize)]
pub(super) struct Link {
    run: String,
    file: Option<String>,
}

/// Returns a link that works without the access token for a while.
pub(super) async fn link(State(page): State<Arc<Page>>, Json(link): Json<Link>) -> Answer {
    blocking(move || {
        let run = history::find(&page.program.results(), &link.run)?;
        let (path, is_download) = match link.file {
            Some(name) => (history::file(&run, &name)?, true),
            None => match history::file(&run, &format!("{}_report.html", run.name)) {
                Ok(path) => (path, false),
                Err(_) => {
                    let summary = history::file(&run, &format!("{}_summary.json", run.name))?;
                    (report::html::write(&summary).map_err(Refusal::broken)?, false)
                }
            },
        };
        let name = plain_name(&path);
        let link = page.links.add(LinkedFile { path, is_download });
        Ok(json!({ "path": format!("/files/{link}/{name}") }))
    })
    .await
}

/// Sends the file of a link. A report runs in a sandbox: it has no access to the page, and can load and send nothing.
pub(super) async fn file(
    State(page): State<Arc<Page>>,
    Path((link, name)): Path<(String, String)>,
) -> Result<Response, Refusal> {
    let missing = || Refusal::missing("this link does not work any more: open the file again on the page");
    let LinkedFile { path, is_download } = page.links.get(&link).ok_or_else(missing)?;
    if plain_name(&path) != name {
        return Err(missing());
    }
    let file = open(path).await.map_err(|_| missing())?;
    let pieces = unfold(file, |mut file| async move {
        let mut piece = Vec::with_capacity(PIECE);
        match file.read_buf(&mut piece).await {
            Ok(0) => None,
            Ok(_) => Some((Ok(Bytes::from(piece)), file)),
            Err(error) => Some((Err(error), file)),
        }
    });
    let mut response = Body::from_stream(pieces).into_response();
    let headers = response.headers_mut();
    if is_download {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        let attachment = HeaderValue::from_str(&format!("attachment; filename=\"{name}\""));
        headers.insert(CONTENT_DISPOSITION, attachment.map_err(|_| missing())?);
    } else {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
        headers
            .insert(CONTENT_SECURITY_POLICY, HeaderValue::from_str(&report_policy()).map_err(|_| missing())?);
        headers.insert(X_FRAME_OPTIONS, HeaderValue::from_static("SAMEORIGIN"));
    }
    Ok(response)
}

/// Returns the name of a file with the letters that are plain in a URL and in a header.
fn plain_name(path: &std::path::Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_' | '.');
    name.chars().map(|letter| if is_plain(letter) { letter } else { '_' }).collect()
}

/// Opens a result file. What is not a regular file any more, for example because a link to another file replaced it, is refused.
async fn open(path: PathBuf) -> io::Result<File> {
    let no_other = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    let file = File::options().read(true).custom_flags(no_other).open(path).await?;
    if file.metadata().await?.is_file() { Ok(file) } else { Err(io::ErrorKind::InvalidInput.into()) }
}

/// Returns the policy of a report: its own style, and only the script that this version writes.
fn report_policy() -> String {
    let hash = BASE64_STANDARD.encode(digest(&SHA256, report::html::POINTER.as_bytes()));
    format!(
        "default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{hash}'; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'self'; sandbox allow-scripts"
    )
}
