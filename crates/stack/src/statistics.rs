//! HAProxy's statistics in CSV: the instances to which it sends.

use serde::Deserialize;

/// A server or gateway in HAProxy's statistics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Instance {
    pub(crate) name: String,
    pub(crate) is_up: bool,
    /// `172.20.0.8:4040`. Empty for a slot without an instance, and without `stats show-legends`.
    pub(crate) address: String,
}

/// The columns that are read.
#[derive(Debug, Deserialize)]
struct Row {
    svname: String,
    status: String,
    #[serde(default)]
    addr: String,
}

/// Start of the header of the table.
const TABLE: &str = "# pxname,";

/// Reads the servers of the backends from the table, or from an HTTP response with it. Skips rows without a column that is needed.
pub(crate) fn instances(response: &str) -> Vec<Instance> {
    let response = without_chunks(response);
    let csv = response.find(TABLE).map_or("", |start| &response[start..]);
    // Rows of some versions are longer than their header.
    let mut reader = csv::ReaderBuilder::new().flexible(true).from_reader(csv.as_bytes());
    reader
        .deserialize::<Row>()
        .flatten()
        .filter(|row| !matches!(row.svname.as_str(), "FRONTEND" | "BACKEND"))
        .map(|row| Instance { name: row.svname, is_up: row.status.starts_with("UP"), address: row.addr })
        .collect()
}

/// Removes the headers of chunks, with which HAProxy divides long statistics at any place: a length in hexadecimal digits between CRLFs.
/// No row of the statistics has a CRLF.
fn without_chunks(statistics: &str) -> String {
    let is_header = |line: &&str| !line.is_empty() && line.bytes().all(|byte| byte.is_ascii_hexdigit());
    statistics.split("\r\n").filter(|line| !is_header(line)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CSV: &str = "# pxname,svname,qcur,status,last_chk,addr,\napi,FRONTEND,,OPEN,,,\napi,server1,0,UP,\"no, none\",10.0.0.2:8000,\n\
                       api,BACKEND,0,UP,,,\nws,wsproxy1,0,DOWN 1/2,,10.0.0.3:4040,,\nws,wsproxy2,0,UP 1/1,,10.0.0.4:4040,\n\
                       ws,wsproxy3,0,MAINT (resolution),,,\n";

    #[test]
    fn servers_are_read_with_their_addresses() {
        let instance =
            |name: &str, is_up, address: &str| Instance { name: name.into(), is_up, address: address.into() };
        let expected = [
            instance("server1", true, "10.0.0.2:8000"),
            instance("wsproxy1", false, "10.0.0.3:4040"),
            instance("wsproxy2", true, "10.0.0.4:4040"),
            instance("wsproxy3", false, ""),
        ];
        assert_eq!(instances(CSV), expected);
        let whole = format!(
            "HTTP/1.0 200 OK\r\ncontent-type: text/plain, \"x\r\nx-y: z\r\n\r\n4f\r\n{CSV}\r\n0\r\n\r\n"
        );
        assert_eq!(instances(&whole), expected);
        let chunked = CSV.replace("wsproxy2", "wsp\r\n1a3\r\nroxy2").replace("api,B", "\r\n4f\r\napi,B");
        assert_eq!(instances(&chunked), expected);
    }

    #[test]
    fn other_texts_have_no_servers() {
        for text in ["", "x", "# pxname,svname\nws,wsproxy1", "# pxname,status\nws,UP", "<html>\n\"\n</html>"]
        {
            assert!(instances(text).is_empty(), "{text:?}");
        }
    }
}
