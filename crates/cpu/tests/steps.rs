//! What does not fit is an error that says what: steps, states, weights, options.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)] // These are tests.

mod common;

use std::sync::Arc;

use common::{Named, load, run_once, tiers};
use keeve_codec::Codec;
use keeve_cpu::{Cpu, CpuOptions, Isa};
use keeve_graph::{
    Attention, Backend, Graph, LoadOptions, Phase, RowInput, SequenceRows, Slot, Step, Want,
};

const VOCABULARY: usize = 6;
const WIDTH: usize = 8;

fn graph(slot: Slot, window: Option<usize>) -> Graph {
    let mut graph = Graph::new();
    let x = graph.embed("table", VOCABULARY, WIDTH).unwrap();
    let state = graph.state(slot);
    let spec = Attention {
        heads: 2,
        kv_heads: 2,
        head_dim: 4,
        scale: 0.5,
        window,
        soft_cap: None,
        causal: true,
    };
    let (y, _) = graph.attention((x, x, x), state, spec).unwrap();
    let rows = graph.select_rows(y, Want::Logits).unwrap();
    graph.output(Want::Logits, rows).unwrap();
    graph
}

fn paged() -> Graph {
    graph(Slot::Paged { kv_heads: 2, head_dim: 4 }, None)
}

fn weights() -> Named {
    let mut weights = Named::default();
    let values: Vec<_> = (0..VOCABULARY * WIDTH).map(|i| i as f32 / 10.0).collect();
    weights.add("table", Codec::F32, VOCABULARY, WIDTH, &values);
    weights
}

fn rows(count: usize) -> Vec<RowInput> {
    let row = |at| RowInput { logits: true, ..RowInput::text(at % 6, at, Phase::Prompt) };
    (0..count as u32).map(row).collect()
}

#[test]
fn steps_that_do_not_fit_are_errors_and_the_plan_goes_on() {
    let given = [0.5; WIDTH];
    let sequence = |rows, past, pages| SequenceRows { rows, past, pages };
    let whole = |sequences| Step { rows: rows(4), sequences, ..Step::default() };
    let mut unknown = whole(vec![sequence(0..4, 0, &[0][..])]);
    unknown.rows[2].id = VOCABULARY as u32;
    let mut adapter = whole(vec![sequence(0..4, 0, &[0][..])]);
    adapter.rows[1].adapter = 3;
    let with = |given| Step { given, ..whole(vec![sequence(0..4, 0, &[0][..])]) };
    let mut hidden_behind = with(vec![(1, &given[..]), (0, &given[..])]);
    hidden_behind.rows[1].id = u32::MAX;
    let wrong = [
        (unknown, "token id 6 is outside the vocabulary of 6"),
        (adapter, "adapter 3"),
        (whole(vec![sequence(0..4, 0, &[])]), "0 pages for 4 tokens"),
        (whole(vec![sequence(0..4, 29, &[0])]), "1 pages for 33 tokens"),
        (whole(vec![sequence(0..4, usize::MAX, &[0])]), "1 pages"),
        (whole(vec![sequence(0..4, 0, &[2])]), "page 2 of 2"),
        (whole(vec![sequence(0..4, 0, &[u32::MAX])]), "page 4294967295 of 2"),
        (whole(vec![sequence(0..3, 0, &[0]), sequence(2..4, 0, &[1])]), "out of order"),
        (whole(vec![sequence(2..4, 0, &[0]), sequence(0..2, 0, &[1])]), "out of order"),
        (whole(vec![sequence(0..0, 0, &[0])]), "empty"),
        (whole(vec![sequence(0..5, 0, &[0])]), "rows 0..5"),
        (whole(vec![sequence(0..2, 0, &[1]), sequence(2..4, 0, &[1])]), "two sequences"),
        (with(vec![(4, &given[..])]), "row 4"),
        (with(vec![(0, &given[..7])]), "row 0"),
        (with(vec![(1, &given[..]), (1, &given[..])]), "not in order"),
        (hidden_behind, "not in order"),
    ];
    for isa in tiers("bad steps") {
        let program = load(isa, 2, &paged(), &weights());
        let mut plan = program.compile(&Default::default()).unwrap();
        let mut state = program.state(2).unwrap();
        let right = whole(vec![sequence(0..4, 0, &[1])]);
        let expected = run_once(&*program, &right, 2);
        for (step, message) in &wrong {
            let error = plan.run(step, &mut *state, None).unwrap_err().to_string();
            assert!(error.contains(message), "{isa}: '{error}' does not say '{message}'");
            assert!(!error.contains('\n'));
            let after = plan.run(&right, &mut *state, None).unwrap();
            assert_eq!(after.values, expected.values, "{isa}: after '{message}'");
        }
        let empty = plan.run(&Step::default(), &mut *state, None).unwrap();
        assert_eq!(empty.rows(Want::Logits).count(), 0);
        let mut two_layers = paged();
        two_layers.state(Slot::Paged { kv_heads: 2, head_dim: 4 });
        let foreign = load(isa, 1, &two_layers, &weights());
        let error = plan.run(&right, &mut *foreign.state(2).unwrap(), None).unwrap_err();
        assert_eq!(error.to_string(), "step: the state is of another graph");
    }
}

#[test]
fn what_the_backend_lacks_is_named() {
    let load = |graph: Graph, weights: &Named, options: &LoadOptions<'_>| {
        let cpu = Cpu::new(CpuOptions { threads: 1, isa: Isa::Scalar }).unwrap();
        let program = cpu.load(Arc::new(graph), weights, options);
        program.err().map(|error| error.to_string())
    };
    let float = LoadOptions::default();
    assert_eq!(load(paged(), &weights(), &float), None);

    let cancel = LoadOptions { progress: &|_| false, ..LoadOptions::default() };
    assert_eq!(load(paged(), &weights(), &cancel).as_deref(), Some("cancelled"));

    let window = graph(Slot::Window { tokens: 3, kv_heads: 2, head_dim: 4 }, Some(3));
    assert!(load(window, &weights(), &float).unwrap().contains("Window"));
    assert_eq!(load(paged(), &Named::default(), &float).unwrap(), "there is no tensor table");
    let mut transposed = Named::default();
    transposed.add("table", Codec::F32, WIDTH, VOCABULARY, &[0.0; WIDTH * VOCABULARY]);
    let error = load(paged(), &transposed, &float).unwrap();
    assert_eq!(error, "tensor table is 8x6, expected 6x8");
}

#[test]
fn windows_of_no_tokens_are_refused_when_the_graph_is_built() {
    let mut graph = Graph::new();
    let x = graph.embed("table", VOCABULARY, WIDTH).unwrap();
    let state = graph.state(Slot::Paged { kv_heads: 2, head_dim: 4 });
    let spec = Attention {
        heads: 2,
        kv_heads: 2,
        head_dim: 4,
        scale: 0.5,
        window: Some(0),
        soft_cap: None,
        causal: true,
    };
    let error = graph.attention((x, x, x), state, spec).unwrap_err().to_string();
    assert_eq!(error, "attention: a window of no tokens");
}

#[test]
fn too_much_state_is_an_error() {
    let program = load(Isa::Scalar, 1, &paged(), &weights());
    let error = program.state(usize::MAX).err().map(|error| error.to_string());
    assert!(error.is_some_and(|error| error.contains("keys and values")));
    assert_eq!(program.page_bytes(), 2 * 2 * 4 * 4 * program.page_tokens());
}
