//! Drawings of reports, as SVG text.

use plotters::prelude::*;

use crate::model::Report;
use crate::ops::{OpsReport, Product};
use crate::server::{Percentiles, ServerReport};
use crate::{Error, Spread};

mod quality;

pub use quality::{Point, quality};

const FONT: &str = "sans-serif";

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

/// Draws on `width` by `height` pixels and returns the SVG text.
fn svg(
    (width, height): (u32, u32),
    draw: impl FnOnce(&Area<'_>) -> Result<(), Box<dyn std::error::Error>>,
) -> Result<String, Error> {
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, (width, height)).into_drawing_area();
        let drawn = area.fill(&WHITE).map_err(Into::into).and_then(|()| draw(&area));
        drawn.and_then(|()| Ok(area.present()?)).map_err(|error| Error::Plot(error.to_string()))?;
    }
    Ok(text)
}

/// Prefill and decode beside their bounds: bars at the medians, lines from the least to the most.
///
/// # Errors
/// If the drawing fails.
pub fn model(report: &Report) -> Result<String, Error> {
    let title = format!(
        "{} {}, {} activations, {} threads",
        report.config, report.codec, report.activations, report.threads
    );
    svg((800, 420), |area| {
        let area = area.titled(&title, (FONT, 18))?;
        let (left, right) = area.split_horizontally(400);
        let fraction = report.prefill_peak_fraction;
        bar(&left, &format!("prefill of {}, tok/s", report.p), report.prefill_tok_s, fraction)?;
        let label = format!("decode of {} at {}, tok/s", report.n, report.d);
        bar(&right, &label, report.decode_tok_s, report.decode_bandwidth_fraction)
    })
}

/// Times of a server's answers: bars of the three percentiles, for first and for next pieces.
///
/// # Errors
/// If the drawing fails.
pub fn server(report: &ServerReport) -> Result<String, Error> {
    let title = format!("{} ({}), {} clients", report.server, report.model, report.clients);
    svg((800, 420), |area| {
        let area = area.titled(&title, (FONT, 18))?;
        let (left, right) = area.split_horizontally(400);
        times(&left, "to the first piece, ms", report.first_piece_ms)?;
        times(&right, "from piece to piece, ms", report.next_piece_ms)
    })
}

fn times(
    area: &Area<'_>,
    label: &str,
    times: Option<Percentiles>,
) -> Result<(), Box<dyn std::error::Error>> {
    let Some(Percentiles { p50, p95, p99 }) = times else { return Ok(()) };
    let mut chart = ChartBuilder::on(area)
        .caption(label, (FONT, 15))
        .margin(10)
        .y_label_area_size(60)
        .x_label_area_size(10)
        .build_cartesian_2d(0.0..3.0, 0.0..p99.max(f64::MIN_POSITIVE) * 1.15)?;
    chart.configure_mesh().disable_x_mesh().x_labels(0).light_line_style(TRANSPARENT).draw()?;
    let steel = RGBColor(70, 110, 160);
    for (at, (name, value)) in [("p50", p50), ("p95", p95), ("p99", p99)].into_iter().enumerate() {
        let at = at as f64;
        chart
            .draw_series([Rectangle::new([(at + 0.2, 0.0), (at + 0.8, value)], steel.filled())])?;
        let words = format!("{name} {value:.1}");
        chart.draw_series([Text::new(words, (at + 0.2, value * 1.05), (FONT, 13))])?;
    }
    Ok(())
}

fn bar(
    area: &Area<'_>,
    label: &str,
    rate: Option<Spread>,
    fraction: Option<f64>,
) -> Result<(), Box<dyn std::error::Error>> {
    let Some(rate) = rate else { return Ok(()) };
    let bound = fraction.filter(|fraction| *fraction > 0.0).map(|fraction| rate.median / fraction);
    let top = bound.unwrap_or(rate.max).max(rate.max) * 1.1;
    let mut chart = ChartBuilder::on(area)
        .caption(label, (FONT, 15))
        .margin(10)
        .y_label_area_size(60)
        .x_label_area_size(10)
        .build_cartesian_2d(0.0..1.0, 0.0..top)?;
    chart.configure_mesh().disable_x_mesh().x_labels(0).light_line_style(TRANSPARENT).draw()?;
    let steel = RGBColor(70, 110, 160);
    chart.draw_series([Rectangle::new([(0.3, 0.0), (0.7, rate.median)], steel.filled())])?;
    chart.draw_series([PathElement::new([(0.5, rate.min), (0.5, rate.max)], BLACK)])?;
    let text = |at: (f64, f64), text: String| Text::new(text, at, (FONT, 13));
    chart.draw_series([text((0.02, rate.median), format!("{:.1}", rate.median))])?;
    if let (Some(bound), Some(fraction)) = (bound, fraction) {
        chart.draw_series([PathElement::new([(0.0, bound), (1.0, bound)], RED)])?;
        let words = format!("bound {bound:.1}: {:.1} % reached", 100.0 * fraction);
        chart.draw_series([text((0.02, bound), words)])?;
    }
    Ok(())
}

/// Operations a second over rows, both logarithmic, a drawing for each size and a line for each
/// codec, mode and phase.
///
/// # Errors
/// If the drawing fails.
pub fn ops(report: &OpsReport) -> Result<String, Error> {
    let mut sizes: Vec<(usize, usize)> = vec![];
    for product in &report.ops {
        if !sizes.contains(&(product.n, product.k)) {
            sizes.push((product.n, product.k));
        }
    }
    let height = 460 * sizes.len().max(1) as u32;
    svg((900, height), |area| {
        let areas = area.split_evenly((sizes.len().max(1), 1));
        for (&(n, k), area) in sizes.iter().zip(&areas) {
            let products = report.ops.iter().filter(|product| (product.n, product.k) == (n, k));
            lines(area, &format!("{n} x {k}, TOP/s by rows"), &products.collect::<Vec<_>>())?;
        }
        Ok(())
    })
}

fn lines(
    area: &Area<'_>,
    caption: &str,
    products: &[&Product],
) -> Result<(), Box<dyn std::error::Error>> {
    let name = |product: &Product| {
        let phase = if product.phase == keeve_graph::Phase::Prompt { "" } else { ", generated" };
        format!("{} {}{phase}", product.codec, product.activations)
    };
    let mut names: Vec<String> = vec![];
    for product in products {
        if !names.contains(&name(product)) {
            names.push(name(product));
        }
    }
    let extent = |values: &mut dyn Iterator<Item = f64>| {
        values.fold((f64::MAX, f64::MIN), |(low, high), value| (low.min(value), high.max(value)))
    };
    let (low, high) = extent(&mut products.iter().map(|product| product.tops));
    let (_, most_rows) = extent(&mut products.iter().map(|product| product.rows as f64));
    let mut chart = ChartBuilder::on(area)
        .caption(caption, (FONT, 16))
        .margin(10)
        .x_label_area_size(30)
        .y_label_area_size(60)
        .build_cartesian_2d(
            (1.0..most_rows * 2.0).log_scale(),
            (low / 1.5..high * 1.5).log_scale(),
        )?;
    chart.configure_mesh().light_line_style(TRANSPARENT).draw()?;
    for (index, wanted) in names.iter().enumerate() {
        let color = Palette99::pick(index).to_rgba();
        let points = products.iter().filter(|product| name(product) == *wanted);
        let points: Vec<_> = points.map(|product| (product.rows as f64, product.tops)).collect();
        chart
            .draw_series(LineSeries::new(points, color.stroke_width(2)))?
            .label(wanted.as_str())
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], color));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .background_style(WHITE.mix(0.8))
        .label_font((FONT, 11))
        .draw()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use keeve_graph::Phase;

    use super::*;
    use crate::bounds::Bounds;

    const SPREAD: Spread = Spread { min: 90.0, median: 101.3, max: 110.0 };

    fn report(decode: Option<Spread>) -> Report {
        Report {
            config: "a <shape> & more".into(),
            codec: "q4_k_m".into(),
            activations: "float",
            isa: "scalar",
            threads: 2,
            p: 512,
            images: 0,
            n: 64,
            d: 0,
            temperature: 0.0,
            top_p: 1.0,
            r: 5,
            prefill_tok_s: Some(SPREAD),
            prefill_seen_tok_s: None,
            decode_tok_s: decode,
            bytes_per_token: 1000,
            bounds: Bounds::default(),
            decode_bandwidth_fraction: None,
            prefill_peak_fraction: Some(0.5),
            load_s: 1.0,
            peak_memory: None,
            interrupted: false,
            profile: None,
        }
    }

    #[test]
    fn drawings_of_models_name_the_rates_and_the_bounds() {
        let text = model(&report(Some(SPREAD))).unwrap();
        assert!(text.starts_with("<svg") && text.trim_end().ends_with("</svg>"));
        assert!(text.contains("bound 202.6: 50.0 % reached"));
        assert!(text.contains("a &lt;shape&gt; &amp; more"), "{text}");
        assert_eq!(text.matches("101.3\n").count(), 2);
        assert_eq!(model(&report(None)).unwrap().matches("101.3\n").count(), 1);
    }

    #[test]
    fn drawings_of_products_have_a_line_for_each_codec_and_phase() {
        let product = |codec: &str, phase, n, rows: usize| Product {
            codec: codec.into(),
            activations: "float",
            recipe: "float",
            phase,
            n,
            k: 64,
            rows,
            seconds: SPREAD,
            gb_s: 1.0,
            tops: rows as f64,
            bound_fraction: None,
        };
        let mut report = OpsReport {
            isa: "scalar",
            threads: 1,
            bounds: Bounds::default(),
            ops: vec![],
            unsupported: vec![],
            interrupted: true,
        };
        assert!(ops(&report).unwrap().starts_with("<svg"));
        report.ops.push(product("q4_k", Phase::Generated, 32, 1));
        assert!(ops(&report).unwrap().contains("q4_k float, generated"));
        report.ops.push(product("q4_k", Phase::Prompt, 32, 1));
        report.ops.push(product("q4_k", Phase::Prompt, 32, 2));
        report.ops.push(product("int8", Phase::Prompt, 96, 1));
        let text = ops(&report).unwrap();
        for line in ["q4_k float, generated", "q4_k float\n", "int8 float\n", "32 x 64", "96 x 64"]
        {
            assert_eq!(text.matches(line).count(), 1, "{line}");
        }
    }
}
