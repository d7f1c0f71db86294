//! Every text comes to an end, whatever it is made of.

use std::sync::mpsc::channel;
use std::time::Duration;

use super::table::NOTATIONS;
use super::*;

/// Pieces that mean something in one notation or another, put together at random.
fn texts(markers: &[&str]) -> Vec<String> {
    const COMMON: [&str; 16] = [
        "[",
        "]",
        "{",
        "}",
        "(",
        ")",
        ",",
        ";",
        ":",
        "\"",
        " ",
        "\n",
        "get",
        "\"name\"",
        "=1",
        "[assistant] hi",
    ];
    let pieces: Vec<&str> = COMMON.iter().chain(markers).copied().collect();
    // Knuth's linear congruential generator (MMIX).
    let mut state = 1u64;
    let mut next = |below: usize| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as usize % below
    };
    let mut texts: Vec<String> = pieces.iter().map(|piece| (*piece).to_owned()).collect();
    for _ in 0..300 {
        let length = 1 + next(8);
        texts.push((0..length).map(|_| pieces[next(pieces.len())]).collect());
    }
    texts
}

#[test]
fn no_text_keeps_a_parser_for_ever() {
    let (ended, wait) = channel();
    std::thread::spawn(move || {
        for notation in NOTATIONS {
            let markers: Vec<&str> = notation.markers().collect();
            for text in texts(&markers) {
                // Who looks at it when it hangs is told by the last one sent.
                let _ = ended.send(Some(format!("{}: {text:?}", notation.name)));
                for (strict, lenient) in
                    [(true, false), (true, true), (false, false), (false, true)]
                {
                    let style = match strict {
                        true => ToolStyle::strict(notation),
                        false => ToolStyle::new(notation, &Specials::default()),
                    };
                    let tools = Arc::new(ToolList(vec![("get".to_owned(), None)]));
                    let mut parser = ToolParser::new(Arc::new(style), tools, lenient, false);
                    for c in text.chars() {
                        parser.push(c.encode_utf8(&mut [0; 4]));
                    }
                    parser.push(&text);
                    parser.finish();
                }
            }
        }
        let _ = ended.send(None);
    });
    let mut last = None;
    loop {
        match wait.recv_timeout(Duration::from_secs(60)) {
            Ok(Some(text)) => last = Some(text),
            Ok(None) => break,
            Err(_) => panic!("no end of {last:?}"),
        }
    }
}
