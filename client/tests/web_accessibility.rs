//! The page and the report without a mouse and without good eyes: axe-core finds nothing serious, and the keyboard alone starts and stops
//! a run with a visible focus.

mod browser;
mod rig;

use browser::{Browser, page, summaries};
use rig::{processes::ChildGuard, programs::streamstress, wait_until};
use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::Stdio,
};

/// Returns the script of axe-core, which scripts/test.sh installs with the linters. Without it, the test is skipped, but not in CI.
fn axe() -> Option<String> {
    let installed = || -> Option<PathBuf> {
        let libraries = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/linters/lib");
        let python = fs::read_dir(libraries).ok()?.flatten().next()?.path();
        Some(python.join("site-packages/axe_playwright_python/axe.min.js"))
    };
    let path = std::env::var_os("STREAMSTRESS_TEST_AXE").map(PathBuf::from).or_else(installed);
    let script = path.and_then(|path| fs::read_to_string(path).ok());
    assert!(
        script.is_some() || std::env::var_os("CI").is_none(),
        "axe-core is missing: scripts/test.sh installs it"
    );
    if script.is_none() {
        let why = "skipped: axe-core is missing: scripts/test.sh installs it, or set STREAMSTRESS_TEST_AXE to its file";
        // A test that cannot say why it is skipped is skipped all the same.
        let _ = writeln!(std::io::stderr(), "{why}");
    }
    script
}

/// Checks what is shown in both colour schemes and with two widths. Adds what is serious to `found`.
fn check(browser: &mut Browser, axe: &str, view: &str, found: &mut Vec<String>) {
    if browser.value("typeof axe") != "object" {
        browser.value(&format!("{axe}; 0"));
    }
    for (scheme, width) in [("light", 1200), ("light", 400), ("dark", 1200), ("dark", 400)] {
        browser.prefer(scheme);
        browser.resize(width, 900);
        let violations = browser.value(
            "axe.run(document, { iframes: false, resultTypes: ['violations'] }).then(result => result.violations
                .filter(one => ['serious', 'critical'].includes(one.impact))
                .flatMap(one => one.nodes.map(node => `${one.id} (${one.impact}): ${node.html} ${node.failureSummary}`)))",
        );
        let violations = violations.as_array().expect("a list of violations");
        found.extend(
            violations.iter().map(|one| format!("{view}, {scheme}, {width}: {}", one.as_str().unwrap())),
        );
    }
    browser.prefer("light");
    browser.resize(1200, 900);
}

/// Runs one test to its end, without the page.
fn finished_run(dir: &Path, name: &str) {
    let arguments = [
        "run",
        "--embedded",
        "--clients",
        "3",
        "--queries",
        "2",
        "--quiet",
        "--output-dir",
        "results",
        "--name",
    ];
    let mut command = streamstress(&arguments);
    command.arg(name).current_dir(dir).env("XDG_RUNTIME_DIR", dir).stdout(Stdio::null());
    ChildGuard::start(&mut command).code();
}

fn show(browser: &mut Browser, part: &str) {
    browser.value(&format!("location.hash = '#{part}'"));
    browser.wait(&format!("!document.querySelector('#{part}').hidden"));
}

fn assert_none(found: &[String]) {
    assert!(found.is_empty(), "{} findings:\n{}", found.len(), found.join("\n"));
}

#[test]
fn a_run_has_no_serious_barriers_from_its_form_to_its_end() {
    let Some(axe) = axe() else { return };
    let dir = tempfile::tempdir().unwrap();
    let (_page, url) = page(dir.path(), &["--embedded"]);
    let mut browser = Browser::start(1200, 900);
    let mut found = Vec::new();
    browser.open(&url);
    browser.wait("document.querySelector('#connection').innerText === 'live'");
    // The checker works: it finds a picture without a text.
    browser.value("document.body.append(Object.assign(document.createElement('img'), { id: 'planted' })), 0");
    check(&mut browser, &axe, "planted", &mut found);
    assert!(found.len() == 4 && found.iter().all(|one| one.contains("image-alt (critical)")), "{found:?}");
    found.clear();
    browser.value("document.querySelector('#planted').remove(), 0");
    check(&mut browser, &axe, "now without a run", &mut found);
    show(&mut browser, "start");
    browser.set("#form [name=clients]", "5");
    browser.set("#form [name=duration]", "5x");
    browser.click("#check");
    browser.wait("document.querySelector('#plan').innerText.includes('5x')");
    check(&mut browser, &axe, "start with a refused plan", &mut found);
    browser.set("#form [name=duration]", "120s");
    browser.set("#form [name=threshold]", "e2el_ms:p95<60000\nttft_ms:p95<1");
    browser.click("#check");
    browser.wait("document.querySelector('#plan').innerText.includes('sessions')");
    check(&mut browser, &axe, "start with a plan", &mut found);
    browser.click("#go");
    browser.wait("document.querySelector('#verdict').innerText.endsWith('so far')");
    browser.wait("document.querySelectorAll('#thresholds li').length === 2");
    browser.set("#amend [name=value]", "4");
    browser.click("#amend button");
    browser.wait("document.querySelector('#events').innerText.includes('4 sessions')");
    check(&mut browser, &axe, "now during a run", &mut found);
    browser.click("#stop");
    browser.wait("document.querySelector('#stop').innerText === 'Stop at once'");
    browser.click("#stop");
    browser.wait("document.querySelector('#verdict').innerText === 'INTERRUPTED'");
    check(&mut browser, &axe, "now after a run", &mut found);
    assert_none(&found);
}

#[test]
fn earlier_runs_one_stream_and_the_report_have_no_serious_barriers() {
    let Some(axe) = axe() else { return };
    let dir = tempfile::tempdir().unwrap();
    ["first", "second"].iter().for_each(|name| finished_run(dir.path(), name));
    let (_page, url) = page(dir.path(), &["--embedded"]);
    let mut browser = Browser::start(1200, 900);
    let mut found = Vec::new();
    browser.open(&url);
    browser.wait("document.querySelector('#connection').innerText === 'live'");
    show(&mut browser, "history");
    browser.wait("document.querySelectorAll('#runs tbody tr').length === 2");
    for (row, side) in [(1, "baseline"), (2, "candidate")] {
        let select = format!("document.querySelector('#runs tbody tr:nth-child({row}) select')");
        browser.value(&format!("{select}.value = '{side}', {select}.dispatchEvent(new Event('change'))"));
    }
    browser.click("#compare");
    browser.wait("document.querySelector('#comparison').innerText.startsWith('compare: ')");
    browser.click("#runs button[aria-label^='Files']");
    browser.click("#runs button[aria-label^='Report']");
    browser.wait("!document.querySelector('#report').hidden");
    browser.click("#runs button[aria-label^='Queries']");
    browser.wait("document.querySelectorAll('#query-list tbody tr').length === 6");
    browser.click("#query-list button");
    browser.wait("document.querySelector('#query-detail pre')");
    check(&mut browser, &axe, "history with a query", &mut found);
    browser.click("#runs button[aria-label^='Delete']");
    browser.wait("document.querySelector('#confirm').open");
    check(&mut browser, &axe, "the question before a deletion", &mut found);
    browser.press("Escape");

    show(&mut browser, "trial");
    browser.click("#trial-open");
    browser.click("#trial-ask");
    browser.wait("document.querySelector('#trial-text').textContent.length > 40");
    browser.click("#trial-cut");
    browser.wait("document.querySelector('#trial-log').innerText.includes('cut by this page')");
    check(&mut browser, &axe, "one stream", &mut found);

    let files = fs::read_dir(dir.path().join("results")).unwrap().map(|entry| entry.unwrap().path());
    let report = files.into_iter().find(|path| path.to_string_lossy().ends_with("_report.html")).unwrap();
    browser.open(&format!("file://{}", report.display()));
    browser.wait(
        "location.protocol === 'file:' && document.readyState === 'complete' && document.querySelector('h1')",
    );
    check(&mut browser, &axe, "report", &mut found);
    // The report has the timelines of queries that `inspect` prints.
    browser.value("document.querySelectorAll('details').forEach(one => one.open = true)");
    browser.value("location.hash = document.querySelector('a[href^=\"#\"]')?.getAttribute('href') ?? ''");
    check(&mut browser, &axe, "report with a query", &mut found);
    assert_none(&found);
}

/// Moves the focus with the Tab key to the first element that matches. Every element on the way shows that it has the focus.
fn tab_to(browser: &mut Browser, selector: &str) {
    for _ in 0..80 {
        browser.press("Tab");
        let (is_shown, what) = focus(browser);
        assert!(is_shown, "the focus is not visible: {what}");
        if browser.value(&format!("document.activeElement.matches({selector:?})")) == true {
            return;
        }
    }
    panic!("the Tab key does not reach {selector}");
}

/// Returns whether the element with the focus is inside the window and has an outline, and the element.
fn focus(browser: &mut Browser) -> (bool, String) {
    let look = browser.value(
        "(() => {
            const one = document.activeElement, style = getComputedStyle(one), box = one.getBoundingClientRect();
            const outline = style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2 && style.outlineColor !== 'rgba(0, 0, 0, 0)';
            const inside = box.width > 0 && box.bottom > 0 && box.top < innerHeight && box.right > 0 && box.left < innerWidth;
            const free = one === document.elementFromPoint((Math.max(box.left, 0) + Math.min(box.right, innerWidth)) / 2,
                (Math.max(box.top, 0) + Math.min(box.bottom, innerHeight)) / 2)?.closest(one.tagName);
            return [one === document.body || (outline && inside && free), `${one.outerHTML.slice(0, 120)} ${outline} ${inside} ${free}`];
        })()",
    );
    (look[0] == true, look[1].as_str().unwrap().to_owned())
}

/// Nothing here clicks, sets the focus, or changes the page by its script: only keys are pressed.
#[test]
fn the_keyboard_alone_starts_and_stops_a_run() {
    let dir = tempfile::tempdir().unwrap();
    let (_page, url) = page(dir.path(), &["--embedded"]);
    let mut browser = Browser::start(1200, 900);
    browser.open(&url);
    browser.wait("document.querySelector('#connection').innerText === 'live'");
    tab_to(&mut browser, "a.skip");
    tab_to(&mut browser, "nav a[href='#start']");
    browser.press("Enter");
    browser.wait("!document.querySelector('#start').hidden");
    for (field, text) in [("clients", "3"), ("duration", "120s")] {
        tab_to(&mut browser, &format!("#form [name={field}]"));
        browser.write(text);
    }
    tab_to(&mut browser, "#form [name=burst]");
    browser.press(" ");
    browser.wait("document.querySelector('#form [name=burst]').checked");
    browser.press(" ");
    browser.wait("!document.querySelector('#form [name=burst]').checked");
    tab_to(&mut browser, "#check");
    browser.press("Enter");
    browser.wait("document.activeElement.id === 'go'");
    assert!(focus(&mut browser).0, "{}", focus(&mut browser).1);
    browser.press(" ");
    browser.wait("location.hash === '#now' && !document.querySelector('#controls').hidden");
    browser.wait("document.querySelector('#verdict').innerText.endsWith('so far')");
    tab_to(&mut browser, "#stop");
    browser.press(" ");
    browser.wait("document.querySelector('#stop').innerText === 'Stop at once'");
    assert_eq!(browser.value("document.activeElement.id"), "stop", "the focus stays");
    browser.press("Enter");
    browser.wait("document.querySelector('#verdict').innerText === 'INTERRUPTED'");
    wait_until("the run has its results", || summaries(dir.path()).len() == 1);
    let summary = summaries(dir.path()).remove(0);
    assert_eq!(summary["interrupted"], true, "{summary:#}");
    assert_eq!(summary["config"]["clients"], 3, "{summary:#}");
}
