//! A browser for the tests of the page: Debian's Chromium without a window, driven over the DevTools protocol.

#![allow(dead_code, reason = "each test binary uses its part")]

use super::rig::{TIMEOUT, processes::ChildGuard, programs::streamstress, wait_until};
use base64::{Engine, prelude::BASE64_STANDARD};
use futures_util::{SinkExt, StreamExt};
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use serde_json::{Value, json};
use std::{
    fs::{self, File},
    io::{BufRead, BufReader},
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};
use tempfile::TempDir;
use tokio::{net::TcpStream, runtime::Runtime, time::timeout};
use tokio_tungstenite::{WebSocketStream, client_async, tungstenite::Message};

/// Interval between two looks at the page.
const LOOK: Duration = Duration::from_millis(50);

/// Starts `streamstress web` and returns the address that it printed.
pub fn page(dir: &Path, arguments: &[&str]) -> (ChildGuard, String) {
    let mut command = streamstress(&["web", "--address", "127.0.0.1:0"]);
    command.args(arguments).current_dir(dir).env("XDG_RUNTIME_DIR", dir).stdout(Stdio::piped());
    let mut page = ChildGuard::start(&mut command);
    let mut url = String::new();
    BufReader::new(page.0.stdout.take().unwrap()).read_line(&mut url).unwrap();
    (page, url.trim().to_owned())
}

/// Returns the complete summaries of the runs of a page in a directory.
pub fn summaries(dir: &Path) -> Vec<Value> {
    let files = fs::read_dir(dir.join("results")).into_iter().flatten().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = files.filter(|path| path.to_string_lossy().ends_with("_summary.json")).collect();
    files.sort();
    // A file that is being written is not one yet.
    files.iter().filter_map(|path| serde_json::from_str(&fs::read_to_string(path).unwrap()).ok()).collect()
}

/// A browser with one page.
pub struct Browser {
    runtime: Runtime,
    socket: WebSocketStream<TcpStream>,
    session: String,
    calls: u64,
    /// What the page did: its requests and errors.
    events: Vec<Value>,
    process: Child,
    _profile: TempDir,
}

impl Browser {
    /// Starts a browser with a window of this size.
    pub fn start(width: u32, height: u32) -> Self {
        let profile = tempfile::tempdir().unwrap();
        let log = profile.path().join("log");
        let process = Command::new("chromium")
            .args([
                "--headless=new",
                "--no-sandbox",
                "--disable-dev-shm-usage",
                "--disable-gpu",
                "--no-first-run",
            ])
            .args(["--disable-background-networking", "--remote-debugging-port=0", "--hide-scrollbars"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg("about:blank")
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap_or_else(|error| {
                panic!("cannot start chromium ({error}): scripts/test.sh installs what the tests need")
            });
        let mut url = None;
        wait_until("the browser listens", || {
            let text = fs::read_to_string(&log).unwrap_or_default();
            url =
                text.lines().find_map(|line| line.strip_prefix("DevTools listening on ").map(str::to_owned));
            url.is_some()
        });
        let url = url.unwrap();
        let address = url.trim_start_matches("ws://").split('/').next().unwrap().to_owned();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let socket = runtime.block_on(async {
            let stream = TcpStream::connect(address).await.unwrap();
            client_async(url, stream).await.unwrap().0
        });
        let session = String::new();
        let mut browser =
            Self { runtime, socket, session, calls: 0, events: Vec::new(), process, _profile: profile };
        let target = browser.call("Target.createTarget", json!({ "url": "about:blank" }));
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        let attached = browser.call("Target.attachToTarget", attach);
        browser.session = attached["sessionId"].as_str().unwrap().to_owned();
        for domain in ["Page", "Runtime", "Network", "Log"] {
            browser.call(&format!("{domain}.enable"), json!({}));
        }
        browser.resize(width, height);
        browser
    }

    /// Sets the size of the window.
    pub fn resize(&mut self, width: u32, height: u32) {
        let metrics = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        self.call("Emulation.setDeviceMetricsOverride", metrics);
    }

    /// Sets whether the user prefers dark pages.
    pub fn prefer(&mut self, scheme: &str) {
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        self.call("Emulation.setEmulatedMedia", json!({ "features": features }));
    }

    /// Calls a method of the protocol and returns its result.
    #[allow(clippy::needless_pass_by_value, reason = "the parameters are made for the call")]
    pub fn call(&mut self, method: &str, parameters: Value) -> Value {
        self.calls += 1;
        let mut call = json!({ "id": self.calls, "method": method, "params": parameters });
        if !self.session.is_empty() {
            call["sessionId"] = json!(self.session);
        }
        let Self { runtime, socket, events, calls, .. } = self;
        let result = async {
            socket.send(Message::text(call.to_string())).await.unwrap();
            loop {
                let Message::Text(text) = socket.next().await.unwrap().unwrap() else { continue };
                let message: Value = serde_json::from_str(&text).unwrap();
                if message["id"] == *calls {
                    return message;
                }
                events.push(message);
            }
        };
        let message = runtime.block_on(async { timeout(TIMEOUT, result).await.expect(method) });
        assert!(message["error"].is_null(), "{method}: {message}");
        message["result"].clone()
    }

    pub fn open(&mut self, url: &str) {
        self.call("Page.navigate", json!({ "url": url }));
    }

    /// Returns the value of an expression in the page.
    pub fn value(&mut self, expression: &str) -> Value {
        let parameters = json!({ "expression": expression, "awaitPromise": true, "returnByValue": true });
        let result = self.call("Runtime.evaluate", parameters);
        assert!(result["exceptionDetails"].is_null(), "{expression}: {result}");
        result["result"]["value"].clone()
    }

    /// Waits until an expression is true in the page.
    pub fn wait(&mut self, expression: &str) {
        let deadline = std::time::Instant::now() + TIMEOUT;
        // The page may still be empty.
        let look = format!("(() => {{ try {{ return Boolean({expression}) }} catch {{ return false }} }})()");
        while self.value(&look) != true {
            if std::time::Instant::now() > deadline {
                let text = self.value("document.body.innerText");
                panic!("timeout: {expression}\n{}", text.as_str().unwrap_or_default());
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Sets a field of a form, as typing into it does.
    pub fn set(&mut self, selector: &str, value: &str) {
        self.value(&format!("document.querySelector({selector:?}).focus()"));
        self.value(&format!("document.querySelector({selector:?}).select?.()"));
        self.write(value);
    }

    /// Clicks on an element as soon as it can be used.
    pub fn click(&mut self, selector: &str) {
        self.wait(&format!("document.querySelector({selector:?})?.disabled === false"));
        self.value(&format!("document.querySelector({selector:?}).click()"));
    }

    /// Returns the text of an element.
    pub fn text(&mut self, selector: &str) -> String {
        self.value(&format!("document.querySelector({selector:?}).innerText")).as_str().unwrap().to_owned()
    }

    /// Presses a key, for example `Tab` or `Enter`.
    pub fn press(&mut self, key: &str) {
        let (code, text) = match key {
            "Enter" => (13, "\r"),
            "Tab" => (9, ""),
            "Escape" => (27, ""),
            "ArrowDown" => (40, ""),
            " " => (32, " "),
            _ => (0, key),
        };
        let down = json!({ "type": "keyDown", "key": key, "code": key, "windowsVirtualKeyCode": code, "text": text });
        self.call("Input.dispatchKeyEvent", down);
        self.call(
            "Input.dispatchKeyEvent",
            json!({ "type": "keyUp", "key": key, "code": key, "windowsVirtualKeyCode": code }),
        );
    }

    /// Moves the focus with the Tab key to the first element that matches, as a user without a mouse does.
    pub fn tab_to(&mut self, selector: &str) {
        for _ in 0..120 {
            if self.value(&format!("document.activeElement.matches({selector:?})")) == true {
                return;
            }
            self.press("Tab");
        }
        panic!("the Tab key does not reach {selector}");
    }

    /// Types a text into the element with the focus.
    pub fn write(&mut self, text: &str) {
        self.call("Input.insertText", json!({ "text": text }));
    }

    /// Writes a picture of the page as it is shown.
    pub fn picture(&mut self, path: &Path) {
        let picture = self.call("Page.captureScreenshot", json!({ "format": "png" }));
        fs::write(path, BASE64_STANDARD.decode(picture["data"].as_str().unwrap()).unwrap()).unwrap();
    }

    /// Returns the addresses of all requests so far.
    pub fn requests(&mut self) -> Vec<String> {
        self.value("0");
        let sent = self.events.iter().filter(|event| event["method"] == "Network.requestWillBeSent");
        sent.map(|event| event["params"]["request"]["url"].as_str().unwrap().to_owned()).collect()
    }

    /// Returns the errors of the page so far: exceptions, and refusals of its policy.
    pub fn errors(&mut self) -> Vec<String> {
        self.value("0");
        let is_error = |event: &&Value| {
            event["method"] == "Runtime.exceptionThrown"
                || (event["method"] == "Log.entryAdded" && event["params"]["entry"]["level"] == "error")
        };
        self.events.iter().filter(is_error).map(|event| event["params"].to_string()).collect()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = killpg(Pid::from_raw(self.process.id().cast_signed()), Signal::SIGKILL);
        let _ = self.process.wait();
    }
}
