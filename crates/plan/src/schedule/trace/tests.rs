//! Traces as they are recorded elsewhere, bad ones named by their lines, and parts of a trace.

use super::*;
use proptest::prelude::*;

const CASES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cases");

fn requests(text: &str) -> Vec<(u128, u32)> {
    let trace = read(text.as_bytes(), Part::default()).unwrap();
    trace.requests.iter().map(|request| (request.at.as_millis(), request.tokens)).collect()
}

#[test]
fn three_formats() {
    let mooncake = "{\"timestamp\": 0, \"input_length\": 6758, \"output_length\": 500, \"hash_ids\": [0, 1]}\n\
                    {\"timestamp\": 3052, \"input_length\": 2, \"output_length\": 26, \"hash_ids\": []}\n";
    assert_eq!(requests(mooncake), [(0, 500), (3052, 26)]);
    let azure = "TIMESTAMP,ContextTokens,GeneratedTokens\r\n2023-11-16 18:17:03.9799600,4808,10\r\n\
                 2023-11-16 18:17:04.2299600,3180,8\r\n2024-05-10 00:00:00.009930+00:00,1,1";
    assert_eq!(requests(azure)[..2], [(0, 10), (250, 8)]);
    let burst = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n\
                 5,ChatGPT,472,18,490,Conversation log\n45.5,GPT-4,1,0,1,API log\n46.0,GPT-4,1,3,4,API log";
    assert_eq!(requests(burst), [(0, 18), (41_000, 3)]);
    assert_eq!(read(burst.as_bytes(), Part::default()).unwrap().without_answer, 1);
    assert_eq!(
        read(burst.as_bytes(), Part { within: Some(Duration::from_secs(41)), ..Part::default() })
            .unwrap()
            .requests
            .len(),
        1
    );
}

#[test]
fn bad_lines_are_named() {
    let text = "TIMESTAMP,ContextTokens,GeneratedTokens\n1,2,3\nsoon,2,3\n\n1,2,many\n1,2\n1,2,-7\n";
    let error = read(text.as_bytes(), Part::default()).unwrap_err().to_string();
    for words in [
        "4 bad lines",
        "line 3: invalid time `soon`",
        "line 5: invalid number of tokens `many`",
        "line 6",
        "line 7: -7",
    ] {
        assert!(error.contains(words), "{words}: {error}");
    }
    assert!(read(&b"a,b,c\n1,2,3"[..], Part::default()).unwrap_err().to_string().contains("`a,b,c`"));
    assert!(matches!(read(&b""[..], Part::default()), Err(TraceError::Empty)));
    assert!(
        read(&b"{\"timestamp\": 1}"[..], Part::default()).unwrap_err().to_string().contains("output_length")
    );
}

const HEADER: &str = "TIMESTAMP,ContextTokens,GeneratedTokens\n";

#[test]
fn files_that_others_recorded() {
    let case = |name: &str| std::fs::read_to_string(format!("{CASES}/{name}")).unwrap();
    assert_eq!(requests(&case("t_dst.csv")), [(0, 5), (1_000, 5)]);
    assert_eq!(requests(&case("t_azure_quoted_ts.csv")), [(0, 44), (4_314, 109)]);
    let semicolons =
        "\u{feff}\"Timestamp\";Model;\"Response tokens\"\r\n0,5;\"a;\"\"b\"\"\nc\";18,0\r\n2;x;3\r\n";
    assert_eq!(requests(semicolons), [(0, 18), (1_500, 3)]);
    let tabs = "TIMESTAMP\tGeneratedTokens\n 2023-11-16T18:15:46Z \t 4\n2023-11-16 18:15:47 UTC\t5\n";
    assert_eq!(requests(tabs), [(0, 4), (1_000, 5)]);
}

#[test]
fn moments_as_clocks_write_them() {
    let at = |text: &str| moment(text);
    let noon = at("2024-03-31 12:00:00").unwrap();
    for (text, after) in [
        ("2024-03-31T12:00:00Z", 0.0),
        ("2024-03-31 12:00:00+00:00", 0.0),
        ("2024-03-31 13:00:00+0100", 0.0),
        ("2024-03-31 13:00:00 +01", 0.0),
        ("2024-03-31 06:30:00-05:30", 0.0),
        ("2024-03-31 12:00:00.5", 0.5),
        ("2024-03-31 12:00:00,25", 0.25),
        ("2024-03-31T14:00:00.123456789123456789+02:00", 0.123_456_789),
        ("2024-03-31 12:00:01.0000000000000000000000000000000000000000000000000000001", 1.0),
    ] {
        let found = at(text).unwrap_or_else(|| panic!("{text}"));
        assert!((found - noon - after).abs() < 1e-6, "{text}: {}", found - noon);
    }
    for text in [
        "",
        "soon",
        "2024-03-31",
        "2024-13-31 12:00:00",
        "2024-03-31 12:00:00.",
        "2024-03-31 12:00:00+1",
        "2024-03-31 12:00:00+99:00",
        "2024-03-31 12:00:00 CET",
        "2024-03-31 12:00:0é",
    ] {
        assert_eq!(at(text), None, "{text}");
    }
}

#[test]
fn long_lines_and_open_quotes_are_named_as_such() {
    let long = format!("{HEADER}1,2,3\n\"{}\n", "x".repeat(LONGEST_LINE + 1));
    let error = read(long.as_bytes(), Part::default()).unwrap_err().to_string();
    assert!(error.starts_with("line 3 is longer than 1 MiB"), "{error}");
    let json = format!("{{\"timestamp\": 1, \"x\": \"{}\"}}", "x".repeat(LONGEST_LINE));
    let error = read(json.as_bytes(), Part::default()).unwrap_err().to_string();
    assert!(error.starts_with("line 1 is longer than 1 MiB"), "{error}");
    let fits = format!("{{\"x\": \"{}\", \"timestamp\": 1, \"output_length\": 2}}\n", "x".repeat(1_000_000));
    assert_eq!(requests(&fits), [(0, 2)]);
    for text in ["\"1,2,3\n4,5,6\n".to_owned(), "\"1,2,3\n".to_owned() + &"4,5,6\n".repeat(200_000)] {
        let error = read(format!("{HEADER}{text}").as_bytes(), Part::default()).unwrap_err().to_string();
        assert!(error.contains("without a closing one") && error.contains("line 2"), "{error}");
    }
}

#[test]
fn a_part_of_a_trace() {
    let text = format!("{HEADER}30,0,3\n0,0,1\n10,0,2\n");
    let part = |from, within: Option<u64>| {
        let part = Part { from, within: within.map(Duration::from_secs) };
        let trace = read(text.as_bytes(), part)?;
        Ok::<_, TraceError>(trace.requests.iter().map(|r| (r.at.as_secs(), r.tokens)).collect::<Vec<_>>())
    };
    let offset = |seconds| Start::Offset(Duration::from_secs(seconds));
    assert_eq!(part(offset(10), None).unwrap(), [(0, 2), (20, 3)]);
    assert_eq!(part(offset(5), Some(20)).unwrap(), [(5, 2)], "counted from there, not from the next request");
    assert_eq!(part(Start::Moment(10.0), None).unwrap(), [(0, 2), (20, 3)]);
    assert_eq!(part(Start::Moment(-99.0), None).unwrap().len(), 3, "before the first request");
    let error = part(offset(31), None).unwrap_err().to_string();
    assert!(error.contains("lasts 30 s") && error.contains("--trace-from"), "{error}");
}

proptest! {
    #[test]
    fn nothing_panics(bytes in prop::collection::vec(any::<u8>(), 0..200), header in 0usize..3) {
        let header = ["", "TIMESTAMP,ContextTokens,GeneratedTokens\n", "{"][header];
        let _ = read(&[header.as_bytes(), &bytes].concat()[..], Part::default());
        let _ = moment(&String::from_utf8_lossy(&bytes));
    }
}
