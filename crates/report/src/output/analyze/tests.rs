//! Files of every kind: good ones become a text, and the errors about bad ones name the line.

use super::*;
use proptest::prelude::*;

const TEN: &str = "session_id,query_num,latency,tokens,create_time,connect_time,close_time,reconnect_attempts,successful_reconnects,error\n";

fn print(analysis: &Analysis) -> String {
    let mut out = TextBuilder::new(80);
    text::print(&mut out, analysis, "a.csv");
    out.finish()
}

fn analysis(text: &str) -> Result<Analysis, String> {
    QueryTable::new(Path::new("a.csv"), text.as_bytes()).and_then(read).map_err(|error| error.to_string())
}

#[test]
fn ten_columns_are_enough() {
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
fn a_run_is_named_by_the_common_start_of_its_files_names() {
    let directory = tempfile::tempdir().unwrap();
    let base = directory.path().join("a_1");
    std::fs::write(with_ending(&base, ".csv"), TEN).unwrap();
    assert!(analyze(std::slice::from_ref(&base), 80).unwrap().contains("a_1.csv"));
    let error = analyze(&[directory.path().join("a_2")], 80).unwrap_err().to_string();
    assert!(error.contains("a_2"), "{error}");
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
        "invalid line 2 of a.csv: it has 3 fields, expected 10 as in the header; correct or remove that line, or name another file"
    );
}

#[test]
fn errors_name_the_line_and_the_value() {
    for (text, expected) in [
        ("", "a.csv is not a table of queries: its header lacks session_id, query_num"),
        ("a,b\n1,2\n", "a.csv is not a table of queries"),
        (
            &format!("{TEN}s,1,fast,18,0,0,0,0,0,\n"),
            "invalid value \"fast\" in column latency, line 2 of a.csv: expected a number; correct",
        ),
        (
            &format!("{TEN}s,1,NaN,18,0,0,0,0,0,\n"),
            "invalid value \"NaN\" in column latency, line 2 of a.csv",
        ),
        (
            &format!("{TEN}s,1,1e300,18,0,0,0,0,0,\n"),
            "invalid value \"1e300\" in column latency, line 2 of a.csv",
        ),
        (
            &format!("{TEN}s,1,1,-18,0,0,0,0,0,\n"),
            "invalid value \"-18\" in column tokens, line 2 of a.csv: expected a whole number; correct",
        ),
    ] {
        let error = analysis(text).unwrap_err();
        assert!(error.starts_with(expected), "{error}");
    }
    let error =
        QueryTable::new(Path::new("a.csv"), &b"\xff\xfe\x00"[..]).and_then(read).unwrap_err().to_string();
    assert!(error.contains("line 1 of a.csv: expected UTF-8 text"), "{error}");
    let error = analyze(&[PathBuf::from("/nowhere/a.csv")], 80).unwrap_err().to_string();
    assert!(error.starts_with("cannot read /nowhere/a.csv: ") && error.contains("; name a .csv"), "{error}");
    let error = analyze(&[std::env::temp_dir()], 80).unwrap_err().to_string();
    assert!(error.contains("Is a directory"), "{error}");
}

#[test]
fn files_that_went_through_other_programs() {
    let case = |name: &str| {
        let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cases");
        analysis(&std::fs::read_to_string(format!("{directory}/{name}")).unwrap()).unwrap()
    };
    let pandas = case("a_pandas_float.csv");
    assert_eq!((pandas.rows, pandas.ok, pandas.sums["tokens"]), (2, 1, 18));
    assert_eq!(pandas.sums["reconnect_attempts"], 1);
    let blanks = case("a_space.csv");
    assert_eq!((blanks.rows, blanks.ok, blanks.sums["tokens"]), (1, 1, 18));
    // With an index column, a byte order mark, semicolons and decimal commas, as a spreadsheet leaves it.
    let header = TEN.trim_end().replace(',', ";");
    let text = format!(
        "\u{feff};{header};failure;failure_code\r\n0;s1;1;0,9;18,0;0,01;0,02;0,03;0;0;;;\r\n1;\"s2\";1,0;;3;;;;1,0;0;\"gone; \"\"away\"\"\";closed;1006,0\r\n"
    );
    let semicolons = analysis(&text).unwrap();
    assert_eq!((semicolons.rows, semicolons.ok, semicolons.sums["tokens"]), (2, 1, 21));
    assert_eq!(semicolons.durations["latency"].quantile_ns(0.5).map(|ns| ns / 10_000_000), Some(90));
    assert_eq!(semicolons.errors.keys().collect::<Vec<_>>(), ["closed 1006"]);
    let tabs = analysis(&format!("{}s\t1\t0.9\t18\t0\t0\t0\t0\t0\t\n", TEN.replace(',', "\t"))).unwrap();
    assert_eq!((tabs.rows, tabs.ok), (1, 1));
    let formula = analysis(&format!("{TEN}s,1,,0,0,0,0,0,0,\"'=HYPERLINK(1)\"\n")).unwrap();
    assert_eq!(
        formula.errors.keys().collect::<Vec<_>>(),
        ["=HYPERLINK(1)"],
        "without the apostrophe that protects spreadsheets"
    );
}

#[test]
fn the_other_tables_of_a_run_are_skipped_with_a_note() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let rows = write("a_1.csv", &format!("{TEN}s,1,0.9,18,0,0,0,0,0,\n"));
    let others = ["_stats", "_history", "_failures", "_resources", "_health"]
        .map(|name| write(&format!("a_1{name}.csv"), "Type,Name\nWS,query\n"));
    let all: Vec<_> = [rows.clone()].into_iter().chain(others.clone()).collect();
    let text = analyze(&all, 120).unwrap();
    assert!(
        text.contains("note: skipped") && text.contains("a_1_history.csv") && !text.contains("header"),
        "{text}"
    );
    assert!(text.contains("queries...................: 1") && !text.contains("together"), "{text}");
    assert!(!analyze(&[rows], 80).unwrap().contains("skipped"));
    let error = analyze(&others, 80).unwrap_err().to_string();
    assert!(error.contains("a_1_stats.csv is not a table of queries"), "{error}");
    let misnamed = write("b_stats.csv", &format!("{TEN}s,1,0.9,18,0,0,0,0,0,\n"));
    assert!(
        analyze(&[misnamed], 80).unwrap().contains("queries...................: 1"),
        "its columns decide"
    );
    let foreign = write("people.csv", "a,b\n1,2\n");
    assert!(analyze(&[all[0].clone(), foreign], 80).unwrap_err().to_string().contains("people.csv"));
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
    fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let with_header = [TEN.as_bytes(), &bytes].concat();
        for input in [&bytes, &with_header] {
            if let Ok(analysis) = QueryTable::new(Path::new("a.csv"), input.as_slice()).and_then(read) {
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
