//! What models cost in bits, and what they lose.

use plotters::prelude::*;

use super::{FONT, svg};
use crate::Error;

/// A model in the drawing.
#[derive(Debug, Clone, PartialEq)]
pub struct Point {
    /// What it is called.
    pub name: String,
    /// Bits a weight.
    pub bits: f64,
    /// Divergence from the reference, in nats a token.
    pub divergence: f64,
}

/// Divergences below this are drawn as if they were this: the axis is logarithmic.
const LEAST: f64 = 1e-7;

/// The points that no other is better than: none with as few bits and as little divergence, and less of
/// one. Fewest bits first.
fn front(points: &[Point]) -> Vec<&Point> {
    let better = |a: &Point, b: &Point| {
        let (bits, divergence) = (a.bits <= b.bits, a.divergence <= b.divergence);
        bits && divergence && (a.bits < b.bits || a.divergence < b.divergence)
    };
    let mut front: Vec<&Point> =
        points.iter().filter(|point| !points.iter().any(|other| better(other, point))).collect();
    front.sort_by(|a, b| a.bits.total_cmp(&b.bits));
    front
}

/// Bits a weight against divergence (logarithmic), the Pareto front as a line through filled points.
///
/// # Errors
/// If the drawing fails.
pub fn quality(points: &[Point]) -> Result<String, Error> {
    let height = |point: &Point| point.divergence.max(LEAST);
    let extent = |values: &mut dyn Iterator<Item = f64>| {
        values.fold((f64::MAX, f64::MIN), |(low, high), value| (low.min(value), high.max(value)))
    };
    let drawn: Vec<Point> = points
        .iter()
        .filter(|point| point.bits.is_finite() && point.divergence.is_finite())
        .cloned()
        .collect();
    if drawn.is_empty() {
        return Err(Error::Plot("there is nothing to draw".into()));
    }
    let (fewest, most) = extent(&mut drawn.iter().map(|point| point.bits));
    let (low, high) = extent(&mut drawn.iter().map(height));
    let front = front(&drawn);
    svg((1000, 640), |area| {
        let mut chart = ChartBuilder::on(area)
            .caption("bits a weight, and divergence from the reference", (FONT, 18))
            .margin(14)
            .x_label_area_size(40)
            .y_label_area_size(70)
            .build_cartesian_2d(
                (fewest - 0.3).max(0.0)..most + 1.0,
                (low / 2.0..high * 2.0).log_scale(),
            )?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .x_desc("bits a weight")
            .y_desc("mean KL, nats a token")
            .y_label_formatter(&|value| format!("{value:.0e}"))
            .draw()?;
        let (red, steel) = (RGBColor(190, 40, 40), RGBColor(70, 110, 160));
        let line = front.iter().map(|point| (point.bits, height(point)));
        chart.draw_series(LineSeries::new(line, red.stroke_width(2)))?;
        for point in &drawn {
            let (at, is_best) = ((point.bits, height(point)), front.contains(&point));
            let style = if is_best { red.filled() } else { steel.stroke_width(1) };
            chart.draw_series([Circle::new(at, 4, style)])?;
            let label = EmptyElement::at(at)
                + Text::new(point.name.clone(), (7, -5), (FONT, 11).into_font());
            chart.draw_series([label])?;
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(name: &str, bits: f64, divergence: f64) -> Point {
        Point { name: name.into(), bits, divergence }
    }

    #[test]
    fn the_front_is_what_nothing_beats() {
        let points = [
            point("c", 8.0, 0.0),
            point("a", 2.0, 0.5),
            point("worse", 4.5, 0.6),
            point("b", 4.5, 0.02),
            point("as good", 4.5, 0.02),
            point("more bits", 5.0, 0.02),
        ];
        let names: Vec<_> = front(&points).iter().map(|point| point.name.as_str()).collect();
        assert_eq!(names, ["a", "b", "as good", "c"]);
    }

    #[test]
    fn drawings_mark_the_front_and_name_all() {
        let points = [point("q2 <k>", 2.6, 0.5), point("bad", 5.0, 0.7), point("f16", 16.0, 0.0)];
        let text = quality(&points).unwrap();
        for name in ["q2 &lt;k&gt;", "bad", "f16"] {
            assert!(text.contains(name), "{name}");
        }
        let filled = text.matches("<circle").count() - text.matches("fill=\"none\" stroke").count();
        assert_eq!(text.matches("<circle").count(), 3);
        assert_eq!(filled, 2, "{text}");
        assert!(quality(&[]).is_err());
        assert!(quality(&[point("nan", 2.0, f64::NAN)]).is_err());
    }
}
