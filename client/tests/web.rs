//! `streamstress web`, `run --web` and `amend --fault` as processes: neither the page nor a run ends with the other, and changes are recorded.

mod fake;
mod launched;
mod rig;

use fake::{Running, Script};
use launched::{command, files, summary, text};
use nix::sys::signal::Signal;
use rig::{
    processes::{ChildGuard, is_running},
    programs::streamstress,
    stacks, wait_until,
};
use serde_json::{Value, json};
use std::{
    fs,
    io::{BufRead, BufReader, Read},
    path::Path,
    process::{ChildStdout, Stdio},
};
use tokio::runtime::Runtime;

/// The page as its own script uses it.
struct Page {
    process: ChildGuard,
    base: String,
    token: String,
    runtime: Runtime,
}

/// Splits the printed address into the page's origin and the token.
fn parts(url: &str) -> (String, String) {
    let (base, token) = url.trim().split_once("/#t=").unwrap_or_else(|| panic!("no address: {url}"));
    (base.to_owned(), token.to_owned())
}

impl Page {
    fn start(dir: &Path, arguments: &[&str]) -> Self {
        let mut command = streamstress(&["web", "--address", "127.0.0.1:0", "--embedded"]);
        command
            .args(arguments)
            .current_dir(dir)
            .env("XDG_RUNTIME_DIR", dir)
            .env("TMPDIR", dir)
            .stdout(Stdio::piped());
        let mut process = ChildGuard::start(&mut command);
        let mut url = String::new();
        let stdout: ChildStdout = process.0.stdout.take().unwrap();
        BufReader::new(stdout).read_line(&mut url).unwrap();
        let (base, token) = parts(&url);
        Self { process, base, token, runtime: runtime() }
    }

    fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        self.send(reqwest::Method::POST, path, body)
    }

    fn send(&self, method: reqwest::Method, path: &str, body: &Value) -> (u16, Value) {
        let Self { base, token, runtime, .. } = self;
        runtime.block_on(async {
            let request = reqwest::Client::new().request(method, format!("{base}{path}")).bearer_auth(token);
            let response = request.header("Origin", base).json(body).send().await.unwrap();
            (response.status().as_u16(), response.json().await.unwrap())
        })
    }

    /// Returns the events until one of this kind satisfies a condition, this one included.
    fn events_until(&self, kind: &str, is_last: impl Fn(&Value) -> bool) -> Vec<Value> {
        let Self { base, token, runtime, .. } = self;
        let reading = async {
            let request = reqwest::Client::new().get(format!("{base}/api/events")).bearer_auth(token);
            let (mut response, mut text, mut events) =
                (request.send().await.unwrap(), String::new(), Vec::new());
            loop {
                text.push_str(&String::from_utf8_lossy(
                    &response.chunk().await.unwrap().expect("the events go on"),
                ));
                while let Some((line, rest)) = text.split_once('\n') {
                    let event =
                        line.strip_prefix("data: ").map(|data| serde_json::from_str::<Value>(data).unwrap());
                    text = rest.to_owned();
                    events.extend(event);
                    if events.last().is_some_and(|event| event["type"] == kind && is_last(event)) {
                        return events;
                    }
                }
            }
        };
        runtime.block_on(async { tokio::time::timeout(rig::TIMEOUT, reading).await.expect(kind) })
    }

    /// Kills the page, as a crash does.
    fn kill(mut self) {
        self.process.signal(Signal::SIGKILL);
        assert_eq!(self.process.code(), None);
    }

    fn state(&self) -> Value {
        let Self { base, token, runtime, .. } = self;
        runtime.block_on(async {
            let request = reqwest::Client::new().get(format!("{base}/api/state")).bearer_auth(token);
            request.send().await.unwrap().json::<Value>().await.unwrap()["state"].take()
        })
    }

    /// Starts a run and waits until it has begun.
    fn start_run(&self, form: &Value) {
        let (status, answer) = self.post("/api/runs", form);
        assert_eq!(status, 200, "{answer}");
        wait_until("the run has begun", || self.state()["run_id"].is_string());
    }
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// Returns the process whose command line contains this text.
fn process_with(text: &str) -> Option<u32> {
    let mut processes =
        fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    processes.find(|pid: &u32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        line.contains(" run --output-dir") && line.contains(text)
    })
}

#[test]
fn the_end_of_the_page_ends_no_run() {
    let dir = tempfile::tempdir().unwrap();
    let mut page = Page::start(dir.path(), &[]);
    page.start_run(&json!({ "clients": 2, "queries": 3, "name": "outlives" }));
    let run = process_with("--name=outlives").unwrap();
    page.process.signal(Signal::SIGINT);
    assert_eq!(page.process.code(), Some(0));
    assert!(is_running(run), "the run goes on without its page");
    let results = dir.path().join("results");
    assert_eq!(kept(&results), 1, "a later page finds the run");
    wait_until("the run ends by itself", || !is_running(run));
    let summary = summary(&results);
    assert_eq!((&summary["queries_ok"], &summary["interrupted"]), (&json!(6), &json!(false)), "{summary:#}");
    // The next page removes what the ended run left.
    let page = Page::start(dir.path(), &[]);
    assert_eq!((kept(&results), &page.state()["state"]), (0, &json!("idle")));
}

/// Returns how many runs a page could find.
fn kept(results: &Path) -> usize {
    let names = fs::read_dir(results).unwrap().map(|entry| entry.unwrap().file_name());
    names.filter(|name| name.to_string_lossy().starts_with(".streamstress-web-")).count()
}

#[test]
fn a_page_that_is_started_again_shows_changes_and_stops_the_run() {
    let dir = tempfile::tempdir().unwrap();
    let results = dir.path().join("results");
    let page = Page::start(dir.path(), &[]);
    page.start_run(&json!({ "clients": 2, "duration": "120s", "name": "found" }));
    let (run, id) = (process_with("--name=found").unwrap(), page.state()["run_id"].clone());
    page.events_until("second", |event| event["t"].as_f64() >= Some(1.0));
    page.kill();
    assert!(is_running(run));
    assert_eq!(kept(&results), 1);

    // The next page shows the run from its beginning, and live again.
    let page = Page::start(dir.path(), &[]);
    let events = page.events_until("second", |event| event["t"].as_f64() >= Some(4.0));
    let count = |kind: &str| events.iter().filter(|event| event["type"] == kind).count();
    assert_eq!((count("run"), count("plan")), (1, 1), "{events:#?}");
    let first = events.iter().find(|event| event["type"] == "second").and_then(|event| event["t"].as_f64());
    assert!(first <= Some(1.0), "{first:?}");
    assert_eq!((&page.state()["state"], &page.state()["run_id"]), (&json!("running"), &id));
    let (status, answer) = page.post("/api/runs", &json!({ "clients": 1 }));
    assert_eq!(status, 409, "one run at a time: {answer}");
    let (status, answer) = page.post("/api/run/amend", &json!({ "clients": 3 }));
    assert_eq!(status, 200, "{answer}");
    let amended = page.events_until("amendment", |_| true);
    assert_eq!(amended.last().unwrap()["clients"], 3);

    // A third one knows that the run is asked to stop.
    let (status, state) = page.post("/api/run/stop", &json!({}));
    assert_eq!((status, &state["stops"]), (200, &json!(1)), "{state}");
    page.kill();
    let page = Page::start(dir.path(), &[]);
    let state = page.state();
    assert!(state["state"] == "idle" || state["stops"] == 1, "{state}");
    wait_until("the run ends", || page.state()["state"] == "idle");
    assert!(!is_running(run));
    let summary = summary(&results);
    assert_eq!(
        (&summary["interrupted"], &summary["amendments"][0]["clients"]),
        (&json!(true), &json!(3)),
        "{summary:#}"
    );
    assert_eq!(kept(&results), 0, "nothing is left");
    // The next run is an ordinary one.
    page.start_run(&json!({ "clients": 1, "queries": 1, "name": "next" }));
    wait_until("the next run ends", || page.state()["state"] == "idle");
}

#[test]
fn two_pages_start_one_run_at_a_target_and_keep_its_files() {
    let server = Running::start(Script::default());
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = (Page::start(dir.path(), &[]), Page::start(dir.path(), &[]));
    let form = json!({
        "clients": 1, "duration": "60s", "api-url": [server.api], "wsproxy-url": [server.ws], "name": "first",
    });
    first.start_run(&form);
    let (status, answer) = second.post("/api/runs", &form);
    let run = process_with("--name=first").unwrap();
    let why = answer["detail"].as_str().unwrap_or_default();
    assert!(
        status == 409 && why.contains("another page") && why.contains(&run.to_string()),
        "{status} {answer}"
    );
    let id = first.state()["run_id"].as_str().unwrap().to_owned();
    // Its amendment service knows the run, whoever started it.
    for page in [&first, &second] {
        let (status, answer) = page.send(reqwest::Method::DELETE, &format!("/api/history/{id}"), &json!({}));
        assert_eq!(status, 409, "{answer}");
    }
    // At another target, the second page starts its own.
    second.start_run(&json!({ "clients": 1, "queries": 1, "embedded": true, "name": "second" }));
    wait_until("its run ends", || second.state()["state"] == "idle");
    // The second time, the run may have ended.
    let stops = [(); 2].map(|()| first.post("/api/run/stop", &json!({})).0);
    assert_eq!(stops[0], 200);
    wait_until("the first run ends", || first.state()["state"] == "idle");
    let (status, answer) = second.send(reqwest::Method::DELETE, &format!("/api/history/{id}"), &json!({}));
    assert_eq!(status, 200, "{answer}");
}

#[test]
fn a_run_that_crashes_or_is_refused_does_not_end_the_page() {
    let dir = tempfile::tempdir().unwrap();
    let page = Page::start(dir.path(), &[]);
    page.start_run(&json!({ "clients": 2, "duration": "60s", "name": "crashes" }));
    let (status, answer) = page.post("/api/runs", &json!({ "clients": 1 }));
    assert_eq!(status, 409, "one run at a time: {answer}");
    let run = process_with("--name=crashes").unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(run.cast_signed()), Signal::SIGKILL).unwrap();
    wait_until("the page sees the end", || page.state()["state"] == "idle");
    let (_, plan) = page.post("/api/plan", &json!({ "clients": -1 }));
    assert_eq!(plan["exit_code"], 104, "{plan}");
    assert!(plan["messages"].as_str().unwrap().contains("--clients"), "{plan}");
    // What the command line refuses, the page refuses with its words.
    let (_, foreign) = page
        .post("/api/plan", &json!({ "api-url": ["http://192.0.2.1"], "wsproxy-url": ["ws://192.0.2.1"] }));
    assert!(foreign["messages"].as_str().unwrap().contains("--i-am-allowed-to-load-test"), "{foreign}");
    page.start_run(&json!({ "clients": 1, "queries": 1, "name": "next" }));
    wait_until("the next run ends", || page.state()["state"] == "idle");
    let (_, amend) = page.post("/api/run/amend", &json!({ "clients": 3 }));
    assert!(amend["detail"].as_str().unwrap().contains("no run"), "{amend}");
}

#[test]
fn a_run_shows_its_own_page_and_ends_as_without_it() {
    let server = Running::start(Script::default());
    let dir = tempfile::tempdir().unwrap();
    let mut command =
        command(&server, dir.path(), &["--clients", "3", "--duration", "3s", "--web=127.0.0.1:0"]);
    command.env("XDG_RUNTIME_DIR", dir.path()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut run = ChildGuard::start(&mut command);
    let mut messages = BufReader::new(run.0.stderr.take().unwrap());
    let mut line = String::new();
    while !line.starts_with("page: ") {
        line.clear();
        assert!(messages.read_line(&mut line).unwrap() > 0, "the run prints the address of its page");
    }
    let (base, token) = parts(line.trim_start_matches("page: "));
    // A browser that reads all events, and one that reads none.
    let events = runtime().block_on(async {
        let get = |path: &str| reqwest::Client::new().get(format!("{base}{path}")).bearer_auth(&token).send();
        let _unread = get("/api/events").await.unwrap();
        let start = reqwest::Client::new()
            .post(format!("{base}/api/runs"))
            .bearer_auth(&token)
            .header("Origin", &base);
        assert_eq!(
            start.json(&json!({ "clients": 1 })).send().await.unwrap().status(),
            409,
            "it starts no other run"
        );
        let mut response = get("/api/events").await.unwrap();
        let mut events = String::new();
        while let Ok(Some(chunk)) = response.chunk().await {
            events.push_str(&String::from_utf8_lossy(&chunk));
        }
        events
    });
    for kind in ["run", "plan", "second", "status", "verdict"] {
        assert!(events.contains(&format!("\"type\":\"{kind}\"")), "{kind}: {events}");
    }
    assert!(!events.contains("\"type\":\"query\""));
    assert_eq!(run.code(), Some(0));
    let mut summary_text = String::new();
    run.0.stdout.take().unwrap().read_to_string(&mut summary_text).unwrap();
    assert!(summary_text.starts_with("PASS"), "stdout belongs to the result: {summary_text}");
    assert_eq!(summary(dir.path())["verdict"], "PASS");
    assert_eq!(files(dir.path(), "_events.ndjson").len(), 0);
}

#[test]
fn a_fault_is_injected_into_a_running_test_and_recorded() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("stack");
    let (_stack, status) = stacks::up(&state, &["--servers", "1", "--proxies", "2"]);
    let mut command = streamstress(&[
        "run",
        "--clients",
        "40",
        "--ramp-up",
        "500ms",
        "--duration",
        "8s",
        "--quiet",
        "--generators",
        "2",
        "--api-url",
        &status.api_url,
    ]);
    command
        .args(["--wsproxy-url", &status.ws_url, "--fault-stack"])
        .arg(&state)
        .arg("--output-dir")
        .arg(dir.path());
    let mut run = ChildGuard::start(command.env("XDG_RUNTIME_DIR", dir.path()).stdout(Stdio::null()));
    let inject = |fault: &str| {
        let output =
            streamstress(&["amend", "--fault", fault]).env("XDG_RUNTIME_DIR", dir.path()).output().unwrap();
        (output.status.code(), text(&output))
    };
    // After the ramp-up, both gateways have sockets.
    let rows = |path: &std::path::PathBuf| fs::read_to_string(path).unwrap_or_default().lines().count();
    wait_until("two seconds are written", || {
        files(dir.path(), "_history.csv").iter().any(|path| rows(path) > 2)
    });
    let mut answer = (None, String::new());
    wait_until("the fault is accepted", || {
        answer = inject("wsproxy-1:kill");
        answer.0 == Some(0)
    });
    assert_eq!(answer.1, "injecting wsproxy-1:kill\n");
    let (code, why) = inject("wsproxy-7:kill");
    assert!(code == Some(104) && why.contains("wsproxy-1"), "{why}");
    let (code, why) = inject("nonsense");
    assert!(code == Some(104) && why.contains("nonsense"), "{why}");
    run.code();
    let summary = summary(dir.path());
    let faults = summary["faults"].as_array().unwrap();
    assert_eq!(faults.len(), 1, "{summary:#}");
    assert_eq!((&faults[0]["fault"], &faults[0]["outcome"]), (&json!("wsproxy-1:kill"), &json!("injected")));
    assert_eq!(summary["tokens_lost"], 0, "{summary:#}");
    // The cut sockets of both generators belong to the fault.
    assert!(faults[0]["outages"].as_u64().is_some_and(|outages| outages > 0), "{:#}", faults[0]);
}
