//! Graphs and steps that do not fit together are refused, saying what does not.

#![allow(clippy::unwrap_used, reason = "tests")]

use keeve_graph::{
    Attention, Error, Graph, Phase, Rope, RowInput, SequenceRows, Slot, Step, StepLimits, Want,
};

#[track_caller]
fn refused<T: std::fmt::Debug>(outcome: Result<T, Error>, part: &str) {
    let error = outcome.unwrap_err().to_string();
    assert!(error.contains(part), "{part:?} is not in: {error}");
}

#[test]
fn operations_check_their_operands() {
    let mut graph = Graph::new();
    refused(graph.embed("table", 0, 8), "table cannot be 0x8");
    refused(graph.embed("table", usize::MAX, 8), "table cannot be");
    let x = graph.embed("table", 10, 8).unwrap();
    refused(graph.embed("table", 11, 8), "used as 10x8 and as 11x8");
    refused(graph.linear(x, "wide", usize::MAX, false), "wide.weight cannot be");
    refused(graph.rms_norm(x, "norm", 3, 1e-6), "does not divide a row of 8");
    refused(graph.rms_norm(x, "norm", 0, 1e-6), "does not divide");

    let rope = |frequencies: Vec<f32>, axes| Rope { frequencies, axes, amplitude: 1.0 };
    refused(graph.rope_table(rope(vec![], vec![])), "finite frequencies");
    refused(graph.rope_table(rope(vec![1.0], vec![3])), "axis below 3");
    refused(graph.rope_table(rope(vec![1.0], vec![0, 0])), "each with an axis");
    refused(graph.rope_table(rope(vec![f32::INFINITY], vec![0])), "finite");
    let table = graph.rope_table(rope(vec![1.0, 0.5], vec![0, 0])).unwrap();
    assert_eq!(graph.rope_table(rope(vec![1.0, 0.5], vec![0, 0])).unwrap(), table);
    refused(graph.rope(x, table, 2), "heads of 2, 4 turned");
    refused(graph.rope(x, table, 5), "in a row of 8");

    let kv = graph.linear(x, "kv", 4, false).unwrap();
    let state = graph.state(Slot::Paged { kv_heads: 1, head_dim: 4 });
    let spec = SPEC;
    let heads = |heads, kv_heads, head_dim| Attention { heads, kv_heads, head_dim, ..spec };
    for wrong in [heads(3, 1, 4), heads(2, 0, 4), heads(2, 1, 0), heads(2, 1, usize::MAX)] {
        refused(graph.attention((x, kv, kv), state, wrong), "do not fit their operands");
    }
    refused(graph.attention((kv, x, kv), state, spec), "do not fit their operands");
    let empty = Attention { window: Some(0), ..spec };
    refused(graph.attention((x, kv, kv), state, empty), "no tokens");
    for slot in [
        Slot::Paged { kv_heads: 2, head_dim: 4 },
        Slot::Window { tokens: 4, kv_heads: 1, head_dim: 4 },
        Slot::Fixed { values: 4 },
    ] {
        let other = graph.state(slot);
        refused(graph.attention((x, kv, kv), other, spec), "of another kind");
    }
    let (attended, next) = graph.attention((x, kv, kv), state, spec).unwrap();
    assert_eq!((next.slot, next.version), (state.slot, 1));

    refused(graph.add(x, kv), "differ");
    refused(graph.scale_rows(x, kv), "not one number a row");
    refused(graph.slice(x, 4..9), "columns 4..9 of a row of 8");
    refused(graph.slice(x, 4..4), "columns 4..4");
    for chosen in [0, 5] {
        refused(graph.router(kv, chosen, true), &format!("{chosen} of 4 experts"));
    }
    let router = graph.router(kv, 3, true).unwrap();
    refused(graph.expert_linear((x, false), kv, "experts", 2), "router is none");
    refused(graph.expert_linear((x, true), router, "experts", 2), "3 inputs in a row of 8");
    refused(graph.expert_linear((x, false), router, "experts", usize::MAX), "cannot be 4x");
    refused(graph.expert_sum(x, router), "3 experts in a row of 8");
    let each = graph.expert_linear((x, false), router, "experts", 2).unwrap();
    assert_eq!(graph.node(each).shape.width, 6);
    let selected = graph.select_rows(x, Want::Hidden).unwrap();
    refused(graph.expert_sum(selected, router), "of other rows");
    refused(graph.expert_linear((x, false), router, "experts", 3), "as 4x2x8 and as 4x3x8");
    refused(graph.output(Want::Logits, attended), "not those that want Logits");
    let chosen = graph.select_rows(attended, Want::Logits).unwrap();
    refused(graph.select_rows(chosen, Want::Logits), "already a selection");
    refused(graph.rope(chosen, table, 4), "rope");
    refused(graph.output(Want::Hidden, chosen), "not those that want Hidden");
    graph.output(Want::Logits, chosen).unwrap();
}

const SPEC: Attention = Attention {
    heads: 2,
    kv_heads: 1,
    head_dim: 4,
    scale: 0.5,
    window: None,
    soft_cap: None,
    causal: true,
};

const LIMITS: StepLimits =
    StepLimits { vocabulary: 10, given_width: 2, whole_sequences: false, page_tokens: 4, pages: 5 };

/// A step of `rows` rows, for sequences of `(rows, past, pages)`.
fn step<'a>(rows: usize, sequences: &[(std::ops::Range<usize>, usize, &'a [u32])]) -> Step<'a> {
    let row = |index| RowInput::text(index as u32 % 10, 0, Phase::Prompt);
    let sequence = |(rows, past, pages): &(std::ops::Range<usize>, usize, &'a [u32])| {
        SequenceRows { rows: rows.clone(), past: *past, pages }
    };
    Step {
        rows: (0..rows).map(row).collect(),
        sequences: sequences.iter().map(sequence).collect(),
        ..Step::default()
    }
}

#[test]
fn steps_are_checked() {
    let fine = step(6, &[(0..3, 6, &[0, 1, 2]), (4..6, 0, &[3])]);
    fine.check(&LIMITS).unwrap();
    // A page that both only read may be shared.
    step(2, &[(0..1, 4, &[0, 1]), (1..2, 4, &[0, 2])]).check(&LIMITS).unwrap();
    let cases: &[(Step<'_>, &str)] = &[
        (step(2, &[(0..0, 0, &[0])]), "empty or out of order"),
        (step(2, &[(0..3, 0, &[0])]), "empty or out of order"),
        (step(2, &[(1..2, 0, &[0]), (0..1, 0, &[1])]), "empty or out of order"),
        (step(2, &[(0..2, 0, &[0]), (1..2, 0, &[1])]), "empty or out of order"),
        (step(2, &[(0..2, 3, &[0])]), "1 pages for 5 tokens"),
        (step(2, &[(0..2, usize::MAX, &[0])]), "1 pages for"),
        (step(2, &[(0..2, 0, &[5])]), "page 5 of 5"),
        (step(2, &[(0..1, 4, &[0, 1]), (1..2, 5, &[0, 1])]), "page 1 would be written by two"),
        (step(3, &[(0..3, 3, &[0, 0])]), "page 0 would be written"),
    ];
    for (step, part) in cases {
        refused(step.check(&LIMITS), part);
    }
    let mut unknown = step(1, &[(0..1, 0, &[0])]);
    unknown.rows[0].id = 10;
    refused(unknown.check(&LIMITS), "token id 10 is outside");
    // A row that is given needs no id.
    unknown.given = vec![(0, &[1.0, 2.0])];
    unknown.check(&LIMITS).unwrap();
    type Given = [(usize, &'static [f32])];
    let given: &[(&Given, &str)] = &[
        (&[(0, &[1.0])], "does not fit"),
        (&[(6, &[1.0, 2.0])], "does not fit"),
        (&[(1, &[1.0, 2.0]), (0, &[1.0, 2.0])], "not in order"),
    ];
    for (given, part) in given {
        let mut step = fine.clone();
        step.given = given.to_vec();
        refused(step.check(&LIMITS), part);
    }
}

#[test]
fn sequences_that_must_come_whole_have_no_past() {
    let limits = StepLimits { whole_sequences: true, ..LIMITS };
    step(3, &[(0..1, 0, &[0]), (1..3, 0, &[1])]).check(&limits).unwrap();
    refused(
        step(3, &[(0..1, 0, &[0]), (1..3, 1, &[1])]).check(&limits),
        "sequence 1 does not come",
    );
}

#[test]
fn a_graph_knows_how_wide_given_rows_are() {
    let mut graph = Graph::new();
    assert_eq!(graph.given_width(), 0);
    graph.embed("table", 10, 8).unwrap();
    assert_eq!(graph.given_width(), 8);
    graph.given(8..12).unwrap();
    graph.given(2..5).unwrap();
    assert_eq!(graph.given_width(), 12);
    refused(graph.given(3..3), "columns 3..3");
    refused(graph.given(0..usize::MAX), "given: columns");
    let x = graph.given(0..6).unwrap();
    refused(graph.layer_norm(x, "norm", 4, 1e-6), "norm of 4 does not divide a row of 6");
    let spec = Attention { window: Some(3), causal: false, ..SPEC };
    let state = graph.state(Slot::Paged { kv_heads: 1, head_dim: 4 });
    let (q, k) = (graph.given(0..8).unwrap(), graph.given(0..4).unwrap());
    refused(graph.attention((q, k, k), state, spec), "a window that is not causal");
    assert!(!graph.takes_whole_sequences());
    graph.attention((q, k, k), state, Attention { window: None, ..spec }).unwrap();
    assert!(graph.takes_whole_sequences());
}

#[test]
fn a_graph_reads_one_line_a_node() {
    let mut graph = Graph::new();
    let x = graph.embed("table", 10, 8).unwrap();
    let chosen = graph.select_rows(x, Want::Logits).unwrap();
    let normed = graph.rms_norm(chosen, "norm", 8, 1e-5).unwrap();
    graph.output(Want::Logits, normed).unwrap();
    let expected = "%0 [T, 8] = embed table[10, 8]\n\
        %1 [logits, 8] = select_rows %0\n\
        %2 [logits, 8] = rms_norm %1 norm.weight[1, 8] eps=0.00001\n\
        output Logits = %2\n";
    assert_eq!(graph.to_string(), expected);
}
