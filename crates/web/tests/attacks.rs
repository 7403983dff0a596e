//! Attacks on the page over real sockets: each must be refused, and must not lock the user out or reach a run.

use parking_lot::Mutex;
use rustix::fs::{CWD, FileType, Mode};
use serde_json::{Value, json};
use std::{
    fs,
    io::{self, BufRead, BufReader, Cursor, Read, Write},
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
        mpsc::{Receiver, Sender, channel},
    },
    thread,
    time::{Duration, Instant},
};
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};
use web::{Called, PageSettings, Program, Run, RunEnd, Session, Token, serve};

/// Time limit of every wait.
const LIMIT: Duration = Duration::from_secs(20);

/// A program whose commands are recorded, and whose only run tells these events.
struct Fake {
    called: Mutex<Vec<Vec<String>>>,
    events: Mutex<Option<Box<dyn BufRead + Send>>>,
    ended: Mutex<Option<Receiver<()>>>,
    results: PathBuf,
    /// Commands wait while this is locked.
    hold: Mutex<()>,
    calling: AtomicUsize,
    most_calling: AtomicUsize,
    /// Names of runs that were started elsewhere.
    elsewhere: Mutex<Vec<String>>,
}

struct FakeRun {
    events: Mutex<Option<Box<dyn BufRead + Send>>>,
    ended: Mutex<Option<Receiver<()>>>,
}

impl Run for FakeRun {
    fn events(&self) -> Option<Box<dyn BufRead + Send>> {
        self.events.lock().take()
    }

    fn interrupt(&self) -> io::Result<()> {
        Ok(())
    }

    fn wait(&self) -> RunEnd {
        if let Some(ended) = self.ended.lock().take() {
            let _ = ended.recv();
        }
        RunEnd { code: Some(0), messages: String::new() }
    }
}

impl Program for Fake {
    fn call(&self, arguments: &[String]) -> io::Result<Called> {
        self.called.lock().push(arguments.to_vec());
        let calling = self.calling.fetch_add(1, SeqCst) + 1;
        self.most_calling.fetch_max(calling, SeqCst);
        drop(self.hold.lock());
        self.calling.fetch_sub(1, SeqCst);
        Ok(Called { code: Some(0), text: "plan".into(), messages: String::new() })
    }

    fn start(&self, arguments: &[String]) -> io::Result<Box<dyn Run>> {
        self.called.lock().push(arguments.to_vec());
        let events = Mutex::new(self.events.lock().take());
        Ok(Box::new(FakeRun { events, ended: Mutex::new(self.ended.lock().take()) }))
    }

    fn going_on(&self) -> Vec<String> {
        self.elsewhere.lock().clone()
    }

    fn starts_runs(&self) -> bool {
        true
    }

    fn results(&self) -> PathBuf {
        self.results.clone()
    }

    fn scenarios(&self) -> Vec<String> {
        Vec::new()
    }

    fn target(&self) -> String {
        "nothing".into()
    }

    fn open_session(&self) -> Result<Box<dyn Session>, String> {
        Err("nothing answers".into())
    }
}

/// A page that listens. It ends when it is dropped.
struct Page {
    address: SocketAddr,
    token: Token,
    program: Arc<Fake>,
    /// Keeps the run going.
    end_of_run: Option<Sender<()>>,
    _end: DropGuard,
    _results: tempfile::TempDir,
}

impl Page {
    fn start(settings: PageSettings) -> Self {
        let (page, end_of_run) = Self::with_run(settings, Box::new(Cursor::new(Vec::new())));
        Self { end_of_run: Some(end_of_run), ..page }
    }

    /// Starts a page with these events of a run. The sender ends the run.
    fn with_run(settings: PageSettings, events: Box<dyn BufRead + Send>) -> (Self, Sender<()>) {
        let (end_of_run, ended) = channel();
        let results = tempfile::tempdir().unwrap();
        let program = Arc::new(Fake {
            called: Mutex::default(),
            events: Mutex::new(Some(events)),
            ended: Mutex::new(Some(ended)),
            results: results.path().to_owned(),
            hold: Mutex::default(),
            calling: AtomicUsize::new(0),
            most_calling: AtomicUsize::new(0),
            elsewhere: Mutex::default(),
        });
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        socket2::SockRef::from(&listener).listen(1024).unwrap();
        listener.set_nonblocking(true).unwrap();
        let (address, token, end) = (listener.local_addr().unwrap(), Token::draw(), CancellationToken::new());
        let (served, given, shutdown) = (Arc::clone(&program), token.clone(), end.clone());
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
            runtime.unwrap().block_on(async {
                let listener = TcpListener::from_std(listener).unwrap();
                serve(listener, served, settings, given, None, shutdown).await;
            });
        });
        (
            Self { address, token, program, end_of_run: None, _end: end.drop_guard(), _results: results },
            end_of_run,
        )
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream
    }

    /// Returns the headers of the page's own script.
    fn own_headers(&self) -> String {
        let (address, token) = (self.address, self.token.reveal());
        format!(
            "Host: {address}\r\nOrigin: http://{address}\r\nAuthorization: Bearer {token}\r\nSec-Fetch-Site: same-origin\r\n"
        )
    }

    /// Sends a request and returns the status and the response.
    fn send(&self, method: &str, path: &str, headers: &str, body: &str) -> (u16, String) {
        let mut stream = self.connect();
        let kind = if body.is_empty() { "" } else { "Content-Type: application/json\r\n" };
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\n{headers}{kind}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
        );
        // A server that has refused the request may have closed the connection already.
        let _ = stream.write_all(request.as_bytes());
        let mut response = String::new();
        let _ = stream.read_to_string(&mut response);
        (status(&response), response)
    }

    fn start_run(&self, headers: &str) -> (u16, String) {
        self.send("POST", "/api/runs", headers, r#"{"clients":1}"#)
    }

    /// Sends these bytes and returns all that is answered.
    fn send_raw(&self, bytes: &str) -> String {
        let mut stream = self.connect();
        let _ = stream.write_all(bytes.as_bytes());
        let mut response = Vec::new();
        let _ = stream.read_to_end(&mut response);
        String::from_utf8_lossy(&response).into_owned()
    }

    /// Writes a file of a run.
    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.program.results.join(name);
        fs::write(&path, text).unwrap();
        path
    }

    /// Returns the path of a link to a file of a run.
    fn link(&self, run: &str, file: &str) -> String {
        let body = json!({ "run": run, "file": file }).to_string();
        let (status, response) = self.send("POST", "/api/links", &self.own_headers(), &body);
        assert_eq!(status, 200, "{response}");
        let body: Value = serde_json::from_str(response.split("\r\n\r\n").nth(1).unwrap()).unwrap();
        body["path"].as_str().unwrap().to_owned()
    }

    fn assert_nothing_called(&self) {
        assert_eq!(*self.program.called.lock(), Vec::<Vec<String>>::new());
    }
}

fn status(response: &str) -> u16 {
    response.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0)
}

#[test]
fn the_page_itself_may_start_a_run() {
    let page = Page::start(PageSettings::default());
    let (status, response) = page.start_run(&page.own_headers());
    assert_eq!(status, 200, "{response}");
    assert_eq!(*page.program.called.lock(), [["--clients=1"]]);
    assert!(page.end_of_run.is_some());
    assert_eq!(page.start_run(&page.own_headers()).0, 409, "one run at a time");
}

#[test]
fn a_name_that_was_rebound_to_this_address_is_refused() {
    let page = Page::start(PageSettings::default());
    let port = page.address.port();
    for host in [
        format!("evil.example:{port}"),
        "evil.example".into(),
        format!("127.0.0.1.evil.example:{port}"),
        String::new(),
    ] {
        let own = page.own_headers().replace(&page.address.to_string(), &host);
        assert_eq!(page.start_run(&own).0, 421, "{host}");
        assert_eq!(page.send("GET", "/api/state", &own, "").0, 421, "{host}");
        assert_eq!(page.send("GET", "/", &format!("Host: {host}\r\n"), "").0, 421, "{host}");
    }
    let twice = format!("Host: evil.example\r\n{}", page.own_headers());
    assert!(matches!(page.start_run(&twice).0, 400 | 421));
    let absolute = page.send("GET", "http://evil.example/api/state", &page.own_headers(), "");
    assert_eq!(absolute.0, 400, "{}", absolute.1);
    page.assert_nothing_called();
}

#[test]
fn another_site_cannot_change_or_read_anything() {
    let page = Page::start(PageSettings::default());
    let (address, token) = (page.address, page.token.reveal());
    // Even with the token, which another site cannot know.
    let base = format!("Host: {address}\r\nAuthorization: Bearer {token}\r\n");
    for origin in ["http://evil.example", "null", "http://localhost:3000", "https://127.0.0.1", ""] {
        let (status, response) = page.start_run(&format!("{base}Origin: {origin}\r\n"));
        assert_eq!(status, 403, "{origin}: {response}");
    }
    assert_eq!(page.start_run(&base).0, 403, "without an origin");
    assert_eq!(page.start_run(&format!("{}Origin: http://evil.example\r\n", page.own_headers())).0, 403);
    for site in ["cross-site", "same-site", "none"] {
        let headers = page.own_headers().replace("same-origin", site);
        assert_eq!(page.start_run(&headers).0, 403, "{site}");
    }
    // A form of another site can send a POST without a preflight, with one of these types.
    for kind in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"] {
        let headers = format!("{}Content-Type: {kind}\r\n", page.own_headers());
        let mut stream = page.connect();
        write!(
            stream,
            "POST /api/runs HTTP/1.1\r\n{headers}Content-Length: 2\r\nConnection: close\r\n\r\n{{}}"
        )
        .unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).unwrap();
        assert_eq!(status(&response), 415, "{kind}: {response}");
    }
    let preflight =
        page.send("OPTIONS", "/api/runs", &format!("Host: {address}\r\nOrigin: http://evil.example\r\n"), "");
    assert_eq!(preflight.0, 403);
    assert!(!preflight.1.to_lowercase().contains("access-control-allow"), "{}", preflight.1);
    page.assert_nothing_called();
}

#[test]
fn without_the_token_nothing_is_read_or_changed() {
    let page = Page::start(PageSettings::default());
    let own = page.own_headers();
    let (token, origin) = (page.token.reveal(), format!("Bearer {}", page.token.reveal()));
    for wrong in
        ["", "Bearer", "Bearer ", "Bearer x", token, &origin[..origin.len() - 1], &format!("{origin}x")]
    {
        let headers = own.replace(&origin, wrong);
        let queries = "/api/history/a_20260101_000000/queries";
        for path in [
            "/api/state",
            "/api/events",
            "/api/history",
            queries,
            &format!("{queries}/1:1"),
            "/api/trial/frames",
        ] {
            assert_eq!(page.send("GET", path, &headers, "").0, 401, "{wrong}: {path}");
        }
        for path in [
            "/api/runs",
            "/api/plan",
            "/api/run/stop",
            "/api/run/amend",
            "/api/run/inject",
            "/api/links",
            "/api/compare",
        ] {
            assert_eq!(page.send("POST", path, &headers, "{}").0, 401, "{wrong}: {path}");
        }
        assert_eq!(page.send("DELETE", "/api/history/a_20260101_000000", &headers, "").0, 401);
    }
    // Neither the page nor an answer contains it.
    for path in ["/", "/main.js", "/server.js", "/api/state"] {
        let (status, response) = page.send("GET", path, &own, "");
        assert_eq!(status, 200, "{path}: {response}");
        assert!(!response.contains(token), "{path}");
    }
    for path in ["/?t=", "/api/state?t=", "/api/state?token="] {
        let headers = own.replace(&origin, "");
        let (status, _) = page.send("GET", &format!("{path}{token}"), &headers, "");
        assert!(path.starts_with("/?") || status == 401, "a token in the address is not one: {path}");
    }
    assert_eq!(page.send("GET", "/files/x/report.html", &own, "").0, 404);
    page.assert_nothing_called();
}

#[test]
fn nothing_is_changed_by_a_get() {
    let page = Page::start(PageSettings::default());
    for path in [
        "/api/runs",
        "/api/plan",
        "/api/run/stop",
        "/api/run/amend",
        "/api/run/inject",
        "/api/trial",
        "/api/history/a_20260101_000000",
    ] {
        assert_eq!(page.send("GET", path, &page.own_headers(), "").0, 405, "{path}");
    }
    assert_eq!(page.send("POST", "/", &page.own_headers(), "{}").0, 405);
    page.assert_nothing_called();
}

#[test]
fn every_answer_forbids_foreign_and_inline_code() {
    let page = Page::start(PageSettings::default());
    for path in ["/", "/main.js", "/api/state", "/missing"] {
        let (_, response) = page.send("GET", path, &page.own_headers(), "");
        for header in [
            "content-security-policy: default-src 'none'; script-src 'self'; style-src 'self'",
            "frame-ancestors 'none'",
            "x-content-type-options: nosniff",
            "referrer-policy: no-referrer",
            "cache-control: no-store",
            "cross-origin-resource-policy: same-origin",
        ] {
            assert!(response.contains(header), "{path} lacks {header}: {response}");
        }
    }
}

#[test]
fn large_and_slow_requests_are_refused() {
    let page = Page::start(PageSettings::default());
    let large = format!(r#"{{"name":"{}"}}"#, "x".repeat(70_000));
    assert_eq!(page.send("POST", "/api/runs", &page.own_headers(), &large).0, 413);
    let mut endless = page.connect();
    write!(
        endless,
        "POST /api/runs HTTP/1.1\r\n{}Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n",
        page.own_headers()
    )
    .unwrap();
    let chunk = format!("1000\r\n{}\r\n", "x".repeat(4096));
    while endless.write_all(chunk.as_bytes()).is_ok() {}
    let long_head = format!("{}X-Long: {}\r\n", page.own_headers(), "x".repeat(40_000));
    assert!(matches!(page.start_run(&long_head).0, 0 | 431));
    // A body that never comes.
    let mut slow = page.connect();
    write!(
        slow,
        "POST /api/runs HTTP/1.1\r\n{}Content-Type: application/json\r\nContent-Length: 10\r\n\r\n{{",
        page.own_headers()
    )
    .unwrap();
    let mut response = String::new();
    BufReader::new(slow).read_line(&mut response).unwrap();
    assert_eq!(status(&response), 408, "{response}");
    page.assert_nothing_called();
}

#[test]
fn a_thousand_idle_connections_do_not_lock_the_user_out() {
    let page = Page::start(PageSettings::default());
    // The user watches the events.
    let mut events = page.connect();
    write!(events, "GET /api/events HTTP/1.1\r\n{}\r\n", page.own_headers()).unwrap();
    let mut events = BufReader::new(events);
    let mut line = String::new();
    events.read_line(&mut line).unwrap();
    assert_eq!(status(&line), 200);
    let mut idle: Vec<_> = (0..1_000).map(|_| page.connect()).collect();
    idle.iter_mut().step_by(2).for_each(|stream| drop(stream.write_all(b"GET / HTTP/1.1\r\nHost: ")));
    let began = Instant::now();
    let (status, response) = page.start_run(&page.own_headers());
    assert_eq!(status, 200, "{response}");
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    // The user's stream of events goes on, and most idle connections are closed.
    while !line.contains("running") {
        line.clear();
        assert!(events.read_line(&mut line).unwrap() > 0, "the user's connection stays");
    }
    let mut open = 0;
    for mut stream in idle {
        stream.set_nonblocking(true).unwrap();
        let mut byte = [0];
        open += usize::from(
            matches!(stream.read(&mut byte), Err(error) if error.kind() == io::ErrorKind::WouldBlock),
        );
    }
    assert!(open <= 128, "{open} connections are open");
}

#[test]
fn a_browser_that_reads_nothing_delays_no_run() {
    let line = format!("{{\"type\":\"second\",\"text\":\"{}\"}}\n", "x".repeat(10_000));
    // Much more than the log and all buffers hold.
    let events = Box::new(BufReader::new(Cursor::new(line.repeat(5_000).into_bytes())));
    let (page, end_of_run) = Page::with_run(PageSettings::default(), events);
    let mut dead = page.connect();
    socket2::SockRef::from(&dead).set_recv_buffer_size(4096).unwrap();
    write!(dead, "GET /api/events HTTP/1.1\r\n{}\r\n", page.own_headers()).unwrap();
    let began = Instant::now();
    assert_eq!(page.start_run(&page.own_headers()).0, 200);
    drop(end_of_run);
    loop {
        let (_, state) = page.send("GET", "/api/state", &page.own_headers(), "");
        if state.contains("\"idle\"") {
            break;
        }
        assert!(began.elapsed() < LIMIT, "the run ends although a browser reads nothing: {state}");
        thread::sleep(Duration::from_millis(10));
    }
    // A browser that comes later, or reads slowly, learns how much it missed.
    let mut late = page.connect();
    write!(late, "GET /api/events HTTP/1.1\r\n{}\r\n", page.own_headers()).unwrap();
    let missed =
        BufReader::new(late).lines().map(Result::unwrap).find(|line| line.contains("missed")).unwrap();
    assert!(missed.contains("\"type\":\"page\""), "{missed}");
    let (_, state) = page.send("GET", "/api/state", &page.own_headers(), "");
    assert!(!state.contains("\"events_missed\":0"), "{state}");
}

#[test]
fn a_browser_resumes_after_its_last_event() {
    let lines: String = (0..50).map(|n| format!("{{\"type\":\"second\",\"t\":{n}}}\n")).collect();
    let (page, _end_of_run) =
        Page::with_run(PageSettings::default(), Box::new(Cursor::new(lines.into_bytes())));
    assert_eq!(page.start_run(&page.own_headers()).0, 200);
    let read = |last: &str, until: &str| -> Vec<String> {
        let mut stream = page.connect();
        write!(stream, "GET /api/events HTTP/1.1\r\n{}{last}\r\n", page.own_headers()).unwrap();
        let mut lines = Vec::new();
        for line in BufReader::new(stream).lines() {
            let line = line.unwrap();
            let is_last = line.contains(until);
            lines.push(line);
            if is_last {
                break;
            }
        }
        lines
    };
    let first = read("", "\"t\":20");
    let id = first.iter().rev().find_map(|line| line.strip_prefix("id: ")).unwrap().to_owned();
    let rest = read(&format!("Last-Event-ID: {id}\r\n"), "\"t\":49");
    let data = |lines: &[String]| -> Vec<String> {
        lines.iter().filter(|line| line.starts_with("data: ") && line.contains("second")).cloned().collect()
    };
    let all = [data(&first), data(&rest)].concat();
    let expected: Vec<_> = (0..50).map(|n| format!("data: {{\"type\":\"second\",\"t\":{n}}}")).collect();
    assert_eq!(all, expected);
    // The position of another process means nothing.
    assert_eq!(data(&read("Last-Event-ID: 00000000-40\r\n", "\"t\":3"))[0], expected[0]);
}

#[test]
fn a_name_from_outside_needs_permission_and_https_changes_the_origin() {
    let page = Page::start(PageSettings { names: vec!["load.example".into()], tls: None });
    let own = page.own_headers().replace(&page.address.to_string(), "load.example");
    assert_eq!(page.start_run(&own).0, 200);
    let key = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![key.cert.der().clone()],
            rustls::pki_types::PrivatePkcs8KeyDer::from(key.signing_key.serialize_der()).into(),
        )
        .unwrap();
    let secure = Page::start(PageSettings { names: Vec::new(), tls: Some(Arc::new(tls)) });
    let (_, response) = secure.send("GET", "/", &secure.own_headers(), "");
    assert!(!response.contains("HTTP/1.1 200"), "plain HTTP is not answered: {response}");
    secure.assert_nothing_called();
}

/// Waits until a condition holds.
fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < LIMIT, "timeout: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn odd_requests_are_refused_and_hide_no_second_one() {
    let page = Page::start(PageSettings::default());
    let own = page.own_headers();
    let hidden = format!(
        "POST /api/runs HTTP/1.1\r\n{own}Content-Type: application/json\r\nContent-Length: 13\r\n\r\n{{\"clients\":1}}"
    );
    let length = hidden.len();
    // Whoever sends these has no token. What they hide has it, as if a proxy had added it.
    let address = page.address;
    let outer = format!("Host: {address}\r\nOrigin: http://{address}\r\n");
    let odd = [
        format!("POST / HTTP/1.1\r\n{outer}Content-Length: {length}\r\nContent-Length: 0\r\n\r\n{hidden}"),
        format!("POST / HTTP/1.1\r\n{outer}Content-Length: +{length}\r\n\r\n"),
        format!("POST / HTTP/1.1\r\n{outer}Content-Length: {length}\r\n\r\n{hidden}"),
        format!("POST / HTTP/1.1\r\n{outer}Transfer-Encoding: xchunked\r\n\r\n"),
        format!(
            "POST / HTTP/1.1\r\n{outer}Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n{length:x}\r\n{hidden}\r\n0\r\n\r\n"
        ),
        format!(
            "POST / HTTP/1.1\r\n{outer}Transfer-Encoding : chunked\r\n\r\n{length:x}\r\n{hidden}\r\n0\r\n\r\n"
        ),
        format!("POST /api/runs HTTP/1.1\r\n{outer}X: a\r\n Authorization: Bearer x\r\n\r\n"),
        format!("POST /api/runs HTTP/1.1\r\n{outer}X: a\0b\r\n\r\n"),
        format!("CONNECT {address} HTTP/1.1\r\n{outer}\r\n"),
        "POST /api/runs HTTP/1.0\r\n\r\n".to_owned(),
        format!("GET /api/state HTTP/1.1\r\n{outer}Upgrade: h2c\r\nConnection: Upgrade\r\n\r\n"),
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(),
        "\x16\x03\x01\r\n\r\n".to_owned(),
    ];
    for request in odd {
        // The second request closes the connection, so that the test does not wait for its time limit.
        let closing = format!("{request}GET / HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n");
        let response = page.send_raw(&closing);
        assert!(!response.contains(" 200 OK") && !response.contains(" 101 "), "{request:?}: {response}");
    }
    page.assert_nothing_called();
}

#[test]
fn of_many_starts_at_one_moment_one_succeeds() {
    let page = Page::start(PageSettings::default());
    let statuses: Vec<u16> = thread::scope(|scope| {
        let starts: Vec<_> = (0..16).map(|_| scope.spawn(|| page.start_run(&page.own_headers()).0)).collect();
        starts.into_iter().map(|start| start.join().unwrap()).collect()
    });
    assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 1, "{statuses:?}");
    assert_eq!(statuses.iter().filter(|status| **status == 409).count(), 15, "{statuses:?}");
    assert_eq!(page.program.called.lock().len(), 1);
}

#[test]
fn commands_have_a_limit_also_if_no_browser_waits_for_them() {
    let page = Page::start(PageSettings::default());
    let held = page.program.hold.lock();
    for _ in 0..12 {
        let mut gone = page.connect();
        let body = "{\"clients\":1}";
        write!(
            gone,
            "POST /api/plan HTTP/1.1\r\n{}Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            page.own_headers(),
            body.len()
        )
        .unwrap();
        // The server has read it when it answers on another connection.
        assert_eq!(page.send("GET", "/api/state", &page.own_headers(), "").0, 200);
        drop(gone);
    }
    wait_until("commands are called", || page.program.calling.load(SeqCst) >= 4);
    assert_eq!(page.program.most_calling.load(SeqCst), 4);
    drop(held);
    let (status, response) = page.send("POST", "/api/plan", &page.own_headers(), "{\"clients\":1}");
    assert_eq!(status, 200, "{response}");
    assert!(page.program.most_calling.load(SeqCst) <= 4);
}

#[test]
fn streams_have_a_limit_and_their_end_makes_room() {
    let page = Page::start(PageSettings::default());
    let open = || {
        let mut stream = BufReader::new(page.connect());
        write!(stream.get_mut(), "GET /api/events HTTP/1.1\r\n{}\r\n", page.own_headers()).unwrap();
        let mut line = String::new();
        stream.read_line(&mut line).unwrap();
        (status(&line), stream)
    };
    let mut streams: Vec<_> = (0..32).map(|_| open()).collect();
    assert!(streams.iter().all(|(status, _)| *status == 200));
    assert_eq!(open().0, 503);
    assert_eq!(page.send("GET", "/api/state", &page.own_headers(), "").0, 200, "everything else works");
    streams.pop();
    wait_until("a stream makes room", || open().0 == 200);
}

#[test]
fn names_of_files_stay_inside_their_header_and_address() {
    let page = Page::start(PageSettings::default());
    let file = "a\"; filename=\"x.html?#%2f..\\_20260101_000000.csv";
    page.write(file, "rows");
    let run = file.trim_end_matches(".csv");
    let path = page.link(run, file);
    let (status, response) = page.send("GET", &path, &format!("Host: {}\r\n", page.address), "");
    assert_eq!(status, 200, "{path}: {response}");
    let name = "a___filename__x.html___2f..__20260101_000000.csv";
    assert!(path.ends_with(name), "{path}");
    assert!(
        response.contains(&format!("content-disposition: attachment; filename=\"{name}\"")),
        "{response}"
    );
    assert!(response.contains("\r\nrows\r\n"), "{response}");
}

#[test]
fn a_link_to_elsewhere_is_neither_listed_nor_sent_nor_deleted() {
    let page = Page::start(PageSettings::default());
    let elsewhere = tempfile::tempdir().unwrap();
    let secret = elsewhere.path().join("secret");
    fs::write(&secret, "hush").unwrap();
    let run = "a_20260101_000000";
    let csv = page.write(&format!("{run}.csv"), "rows");
    let path = page.link(run, &format!("{run}.csv"));
    fs::remove_file(&csv).unwrap();
    std::os::unix::fs::symlink(&secret, &csv).unwrap();
    let (status, response) = page.send("GET", &path, &page.own_headers(), "");
    assert_eq!(status, 404, "{response}");
    let (_, history) = page.send("GET", "/api/history", &page.own_headers(), "");
    assert!(!history.contains(run), "{history}");
    for name in [run, "..%2f..%2fetc", "%2e%2e", "a%00b", "*"] {
        let deleted = page.send("DELETE", &format!("/api/history/{name}"), &page.own_headers(), "").0;
        assert!(matches!(deleted, 400 | 404), "{name}: {deleted}");
    }
    assert_eq!(fs::read_to_string(&secret).unwrap(), "hush");
}

#[test]
fn queries_are_read_from_regular_files_of_the_run_alone() {
    let page = Page::start(PageSettings::default());
    let elsewhere = tempfile::tempdir().unwrap();
    let secret = elsewhere.path().join("secret");
    fs::write(&secret, "{\"query_id\":\"hush\",\"kept_as\":\"slowest\"}\n").unwrap();
    let run = "a_20260101_000000";
    page.write(&format!("{run}_summary.json"), "{}");
    let get = |path: &str| page.send("GET", &format!("/api/history/{run}/{path}"), &page.own_headers(), "");
    assert_eq!(get("queries"), (200, get("queries").1));
    assert_eq!(get("queries/slowest").0, 404);
    let queries = page.write(&format!("{run}_queries.jsonl"), &fs::read_to_string(&secret).unwrap());
    let (status, found) = get("queries/slowest");
    assert!(status == 200 && found.contains("hush"), "{found}");
    for odd in ["..%2f..%2fetc", "%00", "a:b:c", "-1:99999999999999999999", "*"] {
        assert_eq!(get(&format!("queries/{odd}")).0, 404, "{odd}");
    }
    fs::remove_file(&queries).unwrap();
    std::os::unix::fs::symlink(&secret, &queries).unwrap();
    for path in ["queries", "queries/slowest", "queries/hush"] {
        let (status, found) = get(path);
        assert!(status == 404 && !found.contains("hush\""), "{path}: {status} {found}");
    }
    // A pipe would be waited for without an end.
    fs::remove_file(&queries).unwrap();
    rustix::fs::mknodat(CWD, &queries, FileType::Fifo, Mode::RUSR, 0).unwrap();
    assert_eq!(get("queries").0, 404);
}

#[test]
fn the_files_of_a_run_that_goes_on_are_not_deleted() {
    let event = "{\"type\":\"run\",\"run_id\":\"own_20260101_000000\"}\n";
    let (page, _end_of_run) =
        Page::with_run(PageSettings::default(), Box::new(Cursor::new(event.as_bytes().to_vec())));
    let runs = ["own_20260101_000000", "elsewhere_20260101_000000", "old_20260101_000000"];
    let files = runs.map(|run| page.write(&format!("{run}.csv"), "rows"));
    page.program.elsewhere.lock().push(runs[1].to_owned());
    assert_eq!(page.start_run(&page.own_headers()).0, 200);
    wait_until("the run has told its name", || {
        page.send("GET", "/api/state", &page.own_headers(), "").1.contains(runs[0])
    });
    let delete = |run: &str| page.send("DELETE", &format!("/api/history/{run}"), &page.own_headers(), "").0;
    assert_eq!(runs.map(delete), [409, 409, 200]);
    assert_eq!(files.map(|file| file.exists()), [true, true, false]);
}

#[test]
fn a_run_without_a_name_keeps_all_files() {
    let page = Page::start(PageSettings::default());
    let file = page.write("a_20260101_000000.csv", "rows");
    assert_eq!(page.start_run(&page.own_headers()).0, 200);
    assert_eq!(page.send("DELETE", "/api/history/a_20260101_000000", &page.own_headers(), "").0, 409);
    assert!(file.exists());
}

#[test]
fn a_page_for_others_tests_only_hosts_that_its_user_confirmed() {
    let page = Page::start(PageSettings { names: vec!["load.example".into()], tls: None });
    let form = r#"{"api-url":["http://victim.example"],"i-am-allowed-to-load-test":["victim.example"]}"#;
    for path in ["/api/runs", "/api/plan"] {
        let (status, response) = page.send("POST", path, &page.own_headers(), form);
        assert_eq!(status, 400, "{response}");
    }
    page.assert_nothing_called();
}
