//! The page in a browser: a run is started, watched, changed, hit by a fault and stopped; earlier runs are compared; one stream is cut.

mod browser;
mod rig;

use browser::{Browser, page, summaries};
use rig::stacks::up;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Returns where pictures go: a directory that the variable names, or the test's own.
fn pictures(dir: &Path) -> PathBuf {
    std::env::var_os("STREAMSTRESS_TEST_PICTURES").map_or_else(|| dir.to_owned(), PathBuf::from)
}

/// Returns whether nothing is wider than a window of 400 points.
fn fits(browser: &mut Browser) -> bool {
    browser.value("document.documentElement.scrollWidth <= 400") == true
}

/// Checks that every request went to the page, and that nothing failed in it.
fn assert_clean(browser: &mut Browser, url: &str, expected_errors: &[&str]) {
    let own = url.split("/#").next().unwrap();
    let foreign: Vec<_> = browser
        .requests()
        .into_iter()
        .filter(|request| !request.starts_with(own) && request != "about:blank")
        .collect();
    assert!(foreign.is_empty(), "{foreign:?}");
    let errors = browser.errors();
    let unexpected: Vec<_> = errors
        .iter()
        .filter(|error| !expected_errors.iter().any(|expected| error.contains(expected)))
        .collect();
    assert!(unexpected.is_empty(), "{unexpected:?}");
}

#[test]
fn a_run_on_a_native_stack_is_watched_changed_and_hit_by_a_fault() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("stack");
    let (_stack, status) = up(&state, &["--servers", "1", "--proxies", "2"]);
    let state_text = state.to_string_lossy().into_owned();
    let (_page, url) = page(
        dir.path(),
        &["--api-url", &status.api_url, "--wsproxy-url", &status.ws_url, "--fault-stack", &state_text],
    );
    let mut browser = Browser::start(1200, 900);
    browser.open(&url);
    browser.wait("document.querySelector('#connection').innerText === 'live'");
    assert_eq!(browser.value("location.hash"), "#now", "the token leaves the address bar");

    // A wrong plan is refused with the command line's words.
    browser.value("location.hash = '#start'");
    browser.set("#form [name=clients]", "30");
    browser.set("#form [name=duration]", "5x");
    browser.click("#check");
    browser.wait("document.querySelector('#plan').innerText.includes('5x')");
    assert!(browser.text("#plan").contains("--duration"), "{}", browser.text("#plan"));
    assert_eq!(browser.value("document.querySelector('#go').disabled"), true);
    browser.set("#form [name=duration]", "60s");
    browser.set("#form [name=threshold]", "e2el_ms:p95<60000\nttft_ms:p95<30000");
    browser.click("#check");
    browser.wait("document.querySelector('#plan').innerText.includes('sessions')");
    browser.click("#go");

    // The run is shown while it goes on.
    browser.wait("location.hash === '#now' && document.querySelectorAll('#charts figure').length === 4");
    browser.wait("document.querySelector('#verdict').innerText.endsWith('so far')");
    browser.wait("document.querySelectorAll('#thresholds li').length === 2");
    browser.wait("document.querySelector('#thresholds').innerText.includes('% left')");
    browser.wait("document.querySelector('#resources').innerText.includes('wsproxy-1')");
    browser.wait("document.querySelector('#phase').innerText.includes('stage 2 of 2')");

    // It is changed, and a fault is injected.
    browser.set("#amend [name=value]", "40");
    browser.click("#amend button");
    browser.wait("document.querySelector('#answer').innerText.startsWith('amendment 1: 40 sessions')");
    browser.wait("document.querySelector('#events').innerText.includes('40 sessions')");
    browser.set("#inject [name=fault]", "wsproxy-9:kill");
    browser.click("#inject button");
    browser.wait("document.querySelector('#answer').innerText.includes('wsproxy-1')");
    browser.set("#inject [name=fault]", "wsproxy-1:kill");
    browser.click("#inject button");
    browser.wait("document.querySelector('#events').innerText.includes('injected')");
    browser.wait("document.querySelector('#charts').textContent.includes('wsproxy-1:kill')");
    let pictures = pictures(dir.path());
    if pictures != dir.path() {
        // For a picture with something on it.
        browser.wait("document.querySelector('#phase').innerText.startsWith('24 s')");
    }
    browser.value("document.activeElement.blur(), window.scrollTo(0, 0)");
    browser.picture(&pictures.join("now-1200.png"));
    browser.resize(400, 900);
    assert!(fits(&mut browser));
    browser.picture(&pictures.join("now-400.png"));
    browser.prefer("dark");
    browser.picture(&pictures.join("now-400-dark.png"));
    browser.resize(1200, 900);
    browser.picture(&pictures.join("now-1200-dark.png"));
    browser.prefer("light");

    // It is stopped in two steps.
    browser.click("#stop");
    browser.wait("document.querySelector('#stop').innerText === 'Stop at once'");
    browser.wait("document.querySelector('#verdict').innerText === 'INTERRUPTED' || document.querySelector('#stop').offsetParent");
    browser.value("document.querySelector('#stop').click()");
    browser.wait("document.querySelector('#verdict').innerText === 'INTERRUPTED'");
    rig::wait_until("the run has its results", || summaries(dir.path()).len() == 1);
    let summary = summaries(dir.path()).remove(0);
    assert_eq!(summary["amendments"][0]["clients"], 40, "{summary:#}");
    assert_eq!(summary["faults"][0]["fault"], "wsproxy-1:kill", "{summary:#}");
    assert_eq!(summary["faults"][0]["outcome"], "injected", "{summary:#}");

    // One stream is cut by the browser and resumed without a gap.
    browser.value("location.hash = '#trial'");
    browser.click("#trial-open");
    browser.set("#trial-tokens", "60");
    browser.click("#trial-ask");
    browser.wait("document.querySelector('#trial-text').textContent.length > 40");
    browser.click("#trial-cut");
    browser.wait("document.querySelector('#trial-log').innerText.includes('cut by this page')");
    browser.click("#trial-resume");
    browser.wait("document.querySelector('#trial-log').innerText.includes('done at position')");
    assert!(browser.text("#trial-log").contains("resuming after"));
    let tiles = browser.text("#trial-tiles");
    assert!(tiles.contains("60 of 60"), "{tiles}");
    for tile in ["lost", "duplicated", "reordered"] {
        assert!(tiles.contains(&format!("0\n{tile}")), "{tile}: {tiles}");
    }
    browser.picture(&pictures.join("trial-1200.png"));
    browser.resize(400, 900);
    assert!(fits(&mut browser));
    browser.picture(&pictures.join("trial-400.png"));
    browser.click("#trial-close");
    browser.wait("document.querySelector('#trial-log').innerText.includes('session closed')");
    assert_clean(&mut browser, &url, &["409"]);
}

#[test]
fn runs_are_started_compared_and_deleted_by_keyboard_alone() {
    let dir = tempfile::tempdir().unwrap();
    let (_page, url) = page(dir.path(), &["--embedded"]);
    let mut browser = Browser::start(1200, 900);
    browser.open(&url);
    browser.wait("document.querySelector('#connection').innerText === 'live'");
    for run in 1..=2 {
        browser.tab_to("nav a[href='#start']");
        browser.press("Enter");
        browser.tab_to("#form [name=clients]");
        browser.value("document.activeElement.select()");
        browser.write("3");
        browser.tab_to("#form [name=queries]");
        browser.value("document.activeElement.select()");
        browser.write("2");
        browser.tab_to("#check");
        browser.press("Enter");
        browser.wait("document.activeElement.id === 'go'");
        browser.picture(&pictures(dir.path()).join("start-1200.png"));
        browser.press("Enter");
        browser.wait("location.hash === '#now'");
        rig::wait_until("the run has its results", || summaries(dir.path()).len() == run);
        // A busy machine makes a run INVALID.
        browser.wait("['PASS', 'INVALID'].includes(document.querySelector('#verdict').innerText)");
        browser.wait("document.querySelector('#controls').hidden");
        // The figures of the whole run, not those of its last status.
        let tiles = browser.text("#tiles");
        let queries = summaries(dir.path()).last().unwrap()["queries_total"].clone();
        assert!(tiles.starts_with(&format!("0\nsessions\n0\ntokens/s\n{queries}\nqueries\n")), "{tiles}");
        browser.value("document.activeElement.blur()");
    }
    browser.tab_to("nav a[href='#history']");
    browser.press("Enter");
    browser.wait("document.querySelectorAll('#runs tbody tr').length === 2");
    for side in ["baseline", "candidate"] {
        browser.tab_to("#runs select");
        // From the second row on, the first select has the focus already.
        if side == "candidate" {
            browser.press("Tab");
            browser.tab_to("#runs select");
        }
        let steps = if side == "baseline" { 1 } else { 2 };
        (0..steps).for_each(|_| browser.press("ArrowDown"));
        browser.wait(&format!("document.activeElement.value === '{side}'"));
    }
    browser.wait("document.querySelector('#compare').innerText === 'Compare 1 with 1'");
    browser.value("document.querySelector('#filter').focus()");
    browser.tab_to("#compare");
    browser.press("Enter");
    browser.wait("document.querySelector('#comparison').innerText.startsWith('compare: ')");
    assert!(browser.text("#comparison").contains("e2el_ms"), "{}", browser.text("#comparison"));
    browser.picture(&pictures(dir.path()).join("history-1200.png"));

    // The report is shown in a frame that cannot reach the page.
    browser.tab_to("#runs button[aria-label^='Report']");
    browser.press("Enter");
    browser.wait("!document.querySelector('#report').hidden");
    browser.wait("document.activeElement.id === 'report'");
    browser.picture(&pictures(dir.path()).join("report-1200.png"));
    assert_eq!(browser.value("document.querySelector('#report').contentDocument"), Value::Null);

    // One query in detail, from the list and by its number.
    browser.tab_to("#runs button[aria-label^='Queries']");
    browser.press("Enter");
    browser.wait("document.activeElement.id === 'queries-title'");
    browser.wait("document.querySelectorAll('#query-list tbody tr').length === 6");
    browser.tab_to("#query-list button");
    browser.press("Enter");
    browser.wait("document.activeElement.id === 'query-title'");
    let id = browser.text("#query-list button");
    assert_eq!(browser.text("#query-title"), format!("Query {id}"));
    assert_eq!(browser.value("document.querySelectorAll('#query-detail .token').length"), 18);
    assert!(
        browser.text("#query-detail pre").contains("terminator"),
        "{}",
        browser.text("#query-detail pre")
    );
    browser.picture(&pictures(dir.path()).join("query-1200.png"));
    browser.resize(400, 900);
    assert!(fits(&mut browser));
    browser.picture(&pictures(dir.path()).join("query-400.png"));
    browser.resize(1200, 900);
    browser.value("document.querySelector('#filter').focus()");
    browser.tab_to("#query-form input");
    browser.write("1:2");
    browser.press("Enter");
    browser.wait("document.querySelector('#query-detail pre').innerText.match(/session\\.*: 1 [^]*number in the session\\.*: 2/)");
    browser.set("#query-form input", "9:9");
    browser.press("Enter");
    browser.wait("document.querySelector('#problem').innerText.includes('has no query `9:9`')");

    // Sorting, filtering and deletion.
    let first = browser.text("#runs tbody th");
    browser.value("document.querySelector('#filter').focus()");
    browser.tab_to("#runs thead th:nth-child(3) button");
    browser.press("Enter");
    browser.wait(&format!("document.querySelector('#runs tbody th').innerText !== '{first}'"));
    browser.value("document.querySelector('#filter').focus()");
    browser.write("fail");
    browser.wait("document.querySelectorAll('#runs tbody tr').length === 0");
    browser.value("document.querySelector('#filter').value = '', document.querySelector('#filter').dispatchEvent(new Event('input'))");
    browser.wait("document.querySelectorAll('#runs tbody tr').length === 2");
    browser.tab_to("#runs button[aria-label^='Delete']");
    browser.press("Enter");
    browser.wait("document.querySelector('#confirm').open");
    browser.press("Escape");
    browser.wait("!document.querySelector('#confirm').open");
    assert_eq!(summaries(dir.path()).len(), 2, "nothing is deleted without a yes");
    browser.tab_to("#runs button[aria-label^='Delete']");
    browser.press("Enter");
    browser.tab_to("#confirm-yes");
    browser.press("Enter");
    browser.wait("document.querySelectorAll('#runs tbody tr').length === 1");
    assert_eq!(summaries(dir.path()).len(), 1);
    browser.resize(400, 900);
    for part in ["start", "history", "now"] {
        browser.value(&format!("location.hash = '#{part}'"));
        browser.wait(&format!("!document.querySelector('#{part}').hidden"));
        assert!(fits(&mut browser), "{part}");
        browser.picture(&pictures(dir.path()).join(format!("{part}-400.png")));
    }
    assert_clean(&mut browser, &url, &["404"]);
}

#[test]
fn without_the_token_the_page_shows_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (_page, url) = page(dir.path(), &["--embedded"]);
    let mut browser = Browser::start(1200, 900);
    browser.open(url.split('#').next().unwrap());
    browser.wait("document.querySelector('#problem').innerText.includes('access token')");
    browser.wait("document.querySelector('#connection').innerText.includes('access token')");
}

#[test]
fn a_tab_that_is_not_seen_gives_its_connection_back_until_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let (_page, url) = page(dir.path(), &["--embedded"]);
    let mut browser = Browser::start(1200, 900);
    browser.open(&url);
    browser.wait("document.querySelector('#connection').innerText === 'live'");
    // A browser without a window shows every tab.
    let seen = |browser: &mut Browser, is_seen: bool| {
        browser.value(&format!(
            "Object.defineProperty(document, 'hidden', {{ get: () => {}, configurable: true }}),
             document.dispatchEvent(new Event('visibilitychange')), 0",
            !is_seen
        ));
    };
    seen(&mut browser, false);
    browser.wait("document.querySelector('#connection').innerText === 'paused'");
    seen(&mut browser, true);
    browser.wait("document.querySelector('#connection').innerText === 'live'");
    // A short look elsewhere changes nothing.
    seen(&mut browser, false);
    seen(&mut browser, true);
    assert_eq!(browser.text("#connection"), "live");
    assert_clean(&mut browser, &url, &[]);
}
