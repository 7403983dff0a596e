//! Files of every kind, read; good ones make a text, bad ones are named with their line.

use super::*;
use proptest::prelude::*;

const TEN: &str = "session_id,query_num,latency,tokens,create_time,connect_time,close_time,reconnect_attempts,successful_reconnects,error\n";

fn print(analysis: &Analysis) -> String {
    let mut page = Page::new(80);
    text::print(&mut page, analysis, "a.csv");
    page.finish()
}

fn analysis(text: &str) -> Result<Analysis, String> {
    read(Path::new("a.csv"), text.as_bytes()).map_err(|error| error.to_string())
}

#[test]
fn the_origins_ten_columns_are_enough() {
    let rows = "s1,1,0.9,18,0.01,0.02,0.03,0,0,\ns1,2,,3,0.01,0.02,0.03,1,1,timed out\n";
    let analysis = analysis(&format!("{TEN}{rows}")).unwrap();
    assert_eq!((analysis.rows, analysis.ok, analysis.sessions.len()), (2, 1, 1));
    assert_eq!(analysis.sums["tokens"], 21);
    assert_eq!(analysis.errors["timed out"], 1);
    let text = print(&analysis);
    assert!(text.contains("tokens expected...........: not announced"), "{text}");
    assert!(text.contains("50.00 %  (1 ok)"), "{text}");
}

#[test]
fn an_empty_run_is_a_run() {
    let text = print(&analysis(TEN).unwrap());
    assert!(text.contains("queries...................: 0"), "{text}");
}

#[test]
fn only_the_last_row_may_be_cut_off() {
    let whole = "s1,1,0.9,18,0.01,0.02,0.03,0,0,\n";
    let cut = analysis(&format!("{TEN}{whole}s1,2,0.")).unwrap();
    assert!(cut.cut_off && cut.rows == 1);
    let error = analysis(&format!("{TEN}s1,2,0.\n{whole}")).unwrap_err();
    assert_eq!(
        error,
        "a.csv line 2: 3 fields where the header has 10; mend or remove that line, or name another file"
    );
}

#[test]
fn what_is_no_result_is_named_with_its_line() {
    for (text, expected) in [
        ("", "a.csv line 1: no result CSV: its header lacks session_id, query_num"),
        ("a,b\n1,2\n", "a.csv line 1: no result CSV"),
        (&format!("{TEN}s,1,fast,18,0,0,0,0,0,\n"), "a.csv line 2: column latency has \"fast\""),
        (&format!("{TEN}s,1,NaN,18,0,0,0,0,0,\n"), "a.csv line 2: column latency has \"NaN\""),
        (&format!("{TEN}s,1,1e300,18,0,0,0,0,0,\n"), "a.csv line 2: column latency has \"1e300\""),
        (&format!("{TEN}s,1,1,-18,0,0,0,0,0,\n"), "a.csv line 2: column tokens has \"-18\""),
    ] {
        let error = analysis(text).unwrap_err();
        assert!(error.starts_with(expected), "{error}");
    }
    let error = read(Path::new("a.csv"), &b"\xff\xfe\x00"[..]).unwrap_err().to_string();
    assert!(error.contains("not UTF-8"), "{error}");
    let error = analyze(&[PathBuf::from("/nowhere/a.csv")], 80).unwrap_err().to_string();
    assert!(error.starts_with("/nowhere/a.csv: "), "{error}");
    let error = analyze(&[std::env::temp_dir()], 80).unwrap_err().to_string();
    assert!(error.contains("a directory"), "{error}");
}

#[test]
fn several_files_are_one() {
    let mut all = Analysis::default();
    for latency in ["0.1", "0.3"] {
        all.merge(&analysis(&format!("{TEN}s,1,{latency},18,0,0,0,0,0,\n")).unwrap());
    }
    assert_eq!((all.rows, all.sessions.len(), all.durations["latency"].count()), (2, 2, 2));
}

proptest! {
    #[test]
    fn garbage_is_refused_or_read_but_never_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let with_header = [TEN.as_bytes(), &bytes].concat();
        for input in [&bytes, &with_header] {
            if let Ok(analysis) = read(Path::new("a.csv"), input.as_slice()) {
                print(&analysis);
            }
        }
    }

    #[test]
    fn odd_numbers_do_not_panic(latency in any::<f64>(), tokens in any::<u64>()) {
        let text = format!("{TEN}s,1,{latency},{tokens},-0.1,{latency},,0,0,\n").repeat(2);
        if let Ok(analysis) = analysis(&text) {
            print(&analysis);
        }
    }
}
