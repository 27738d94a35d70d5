//! `netfs bench micro` does its work in every case. Nothing is said about how fast: the machine that
//! runs the tests is busy.

use std::process::Command;

use serde_json::Value;

const CASES: [&str; 10] = [
    "mem-ref-4k",
    "mem-ref-4k-2t",
    "mem-copy-4k",
    "mem-copy-1m",
    "disk-1m",
    "disk-4k",
    "disk-cold-1m",
    "miss-fill",
    "open-scale",
    "idle",
];

#[test]
fn a_quick_run_does_the_work_of_all_cases() {
    let out = binary().args(["bench", "micro", "--quick", "--json"]).output().expect("it starts");
    let errors = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{}: {errors}", out.status);
    let text = String::from_utf8(out.stdout).expect("JSON is text");
    let rows: Vec<Value> =
        text.lines().map(|line| serde_json::from_str(line).expect("one object a line")).collect();
    let names: Vec<_> = rows.iter().filter_map(|row| row["case"].as_str()).collect();
    assert_eq!(names, CASES);
    for row in &rows[..9] {
        let number = |field: &str| row[field].as_f64().expect(field);
        assert!(number("ours") > 0.0 && number("limit") > 0.0 && number("ratio") > 0.0, "{row}");
        // As printed: four digits each.
        let off = number("ours") / number("limit") / number("ratio") - 1.0;
        assert!(off.abs() < 1e-3, "{row}");
        assert!(number("rounds") >= 7.0, "{row}");
        assert!(number("moved_bytes") > 0.0, "{row}");
        assert!(number("cached_bytes") >= 0.98 * number("moved_bytes"), "{row}");
        assert!(["ns", "GB/s", "s"].contains(&row["unit"].as_str().expect("unit")), "{row}");
    }
    // G15: also when the machine is busy.
    let idle = serde_json::json!(
        {"case": "idle", "ours": 0.0, "limit": 0.0, "ratio": null, "unit": "calls"});
    assert_eq!(rows[9], idle);
}

#[test]
fn a_quick_run_of_writes_does_the_work_of_all_cases() {
    let out = binary().args(["bench", "write", "--quick", "--json"]).output().expect("it starts");
    let errors = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{}: {errors}", out.status);
    let text = String::from_utf8(out.stdout).expect("JSON is text");
    let rows: Vec<Value> =
        text.lines().map(|line| serde_json::from_str(line).expect("one object a line")).collect();
    let names: Vec<_> = rows.iter().filter_map(|row| row["case"].as_str()).collect();
    let all = [
        "buffered-1m",
        "bytes-1m",
        "overwrite-4k",
        "sparse-small",
        "writeback",
        "read-under-write",
    ];
    assert_eq!(names, all);
    for row in &rows {
        let number = |field: &str| row[field].as_f64().expect(field);
        assert!(number("ours") > 0.0 && number("limit") > 0.0 && number("ratio") > 0.0, "{row}");
    }
    // Counted, not measured: exactly what was written goes to the origin.
    let sparse = rows.iter().find(|row| row["case"] == "sparse-small").expect("it is there");
    assert_eq!((sparse["ratio"].as_f64(), sparse["unit"].as_str()), (Some(1.0), Some("bytes")));
}

#[test]
fn an_unknown_case_is_refused_with_the_names_there_are() {
    let out = binary().args(["bench", "micro", "--case", "disk-2m"]).output().expect("it starts");
    assert_eq!(out.status.code(), Some(2));
    let errors = String::from_utf8_lossy(&out.stderr);
    assert!(errors.contains("disk-1m") && errors.contains("open-scale"), "{errors}");
}

fn binary() -> Command {
    Command::new(env!("CARGO_BIN_EXE_netfs"))
}
