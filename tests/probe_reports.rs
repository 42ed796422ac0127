//! Tables, CSV, points and pictures show what a probe found, at any depth and with undefined numbers too.

use std::collections::HashSet;
use std::path::Path;

use genir::report::pictures;

#[path = "support/probe_records.rs"]
mod probe_records;

#[test]
#[ignore]
fn draw() {
    let out = std::env::var("OUT").unwrap();
    for depth in [3, 6, 24] {
        let moments: Vec<_> =
            (0..12u64).map(|n| probe_records::records(depth, 100 * n + 50)).collect();
        for probe in 0..9 {
            let history: Vec<_> = moments.iter().map(|m| m[probe].clone()).collect();
            for picture in pictures(&history) {
                let image = picture.image().unwrap();
                let mut ppm = format!("P6\n{} {}\n255\n", image.width, image.height).into_bytes();
                ppm.extend(&image.pixels);
                std::fs::write(format!("{out}/{depth}-{}.ppm", picture.name()), ppm).unwrap();
                std::fs::write(
                    format!("{out}/{depth}-{}.svg", picture.name()),
                    picture.svg().unwrap(),
                )
                .unwrap();
            }
            if depth == 6 {
                for table in genir::report::tables(&history[3]) {
                    println!("{table}\n");
                }
            }
        }
    }
}
