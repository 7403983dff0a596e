//! Line charts as SVG. Colours are markers that the style sheet replaces, so that one drawing works in light and dark mode.
//! Points that are far apart are not joined. The values are embedded for the tooltips.

use super::downsample::Line;
use plotters::{
    coord::Shift,
    prelude::*,
    style::{RGBColor, TextStyle},
};
use serde_json::json;

const SIZE: (u32, u32) = (460, 220);
/// Colour markers for the style sheet: `#010000` … are the series, `#000001` the mesh, `#000002` marks of faults.
const MESH: RGBColor = RGBColor(0, 0, 1);
const MARK: RGBColor = RGBColor(0, 0, 2);
/// Number of series with different colours. Further series start again with the first colour.
pub(super) const COLOURS: usize = 8;

/// Unit of the horizontal axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Axis {
    /// Seconds of the run.
    Time,
    /// log10 of 1 / (1 − quantile), as HdrHistogram draws it.
    Percentile,
    /// Sessions or sessions per second. Each point is drawn for itself.
    Load,
    /// A setting that varies. Every point is drawn, and all points of a series are joined.
    Setting,
}

/// Start of the vertical axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Base {
    /// At zero.
    Zero,
    /// At a round number below the values if they would only fill a band at the top otherwise. No area is filled then.
    Near,
}

/// A line of a chart.
#[derive(Debug)]
pub(super) struct Series {
    pub(super) name: String,
    pub(super) points: Line,
    /// Whether the area down to zero is filled.
    pub(super) filled: bool,
}

impl Series {
    pub(super) fn line(name: impl Into<String>, points: Line) -> Self {
        Self { name: name.into(), points, filled: false }
    }

    pub(super) fn filled(name: impl Into<String>, points: Line) -> Self {
        Self { name: name.into(), points, filled: true }
    }
}

/// A drawn chart.
#[derive(Debug)]
pub(super) struct Drawing {
    pub(super) svg: String,
    /// Start of the vertical axis, if it is not zero.
    pub(super) begins: Option<String>,
    /// JSON for the tooltips: the plot area, the range of the axis and the values.
    pub(super) data: String,
}

/// A chart.
#[derive(Debug)]
pub(super) struct Chart {
    pub(super) title: String,
    pub(super) axis: Axis,
    pub(super) base: Base,
    pub(super) series: Vec<Series>,
    /// Times of faults.
    pub(super) marks: Vec<f64>,
    /// Smallest end of the time axis, so that all charts of a run have the same range.
    pub(super) until: f64,
}

impl Chart {
    /// Draws the chart. Returns `None` if there are no points.
    pub(super) fn draw(&self) -> Option<Drawing> {
        let lines: Vec<&Line> = self.series.iter().map(|series| &series.points).collect();
        let all = || lines.iter().copied().flatten();
        all().next()?;
        let from = match self.axis {
            Axis::Time => all().map(|point| point.0).fold(0.0, f64::min),
            Axis::Percentile | Axis::Load => 0.0,
            Axis::Setting => all().map(|point| point.0).fold(f64::INFINITY, f64::min),
        };
        let to = all().map(|point| point.0).chain([self.until]).fold(f64::NEG_INFINITY, f64::max);
        let (from, to) = match self.axis {
            // Some room, so that the outer points are not on the frame.
            Axis::Setting if to > from => (from - (to - from) * 0.04, to + (to - from) * 0.04),
            Axis::Setting => (from - 1.0, to + 1.0),
            Axis::Time | Axis::Percentile | Axis::Load => (from, to.max(from + 1.0)),
        };
        let vertical = Vertical::of(all().map(|point| point.1), self.base);
        let (mut svg, plot);
        svg = String::new();
        {
            let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
            plot = self.draw_on(&area, from..to, &vertical, &lines).ok()?;
            area.present().ok()?;
        }
        let label = maud::html! { (self.title) }.into_string();
        let svg = svg.replacen("<svg ", &format!("<svg role=\"img\" aria-label=\"{label}\" "), 1);
        let begins = (vertical.from > 0.0).then(|| vertical.figure(vertical.from));
        Some(Drawing { svg, begins, data: self.data(plot, [from, to], longest_join(&lines)) })
    }

    fn data(&self, plot: [i32; 4], x: [f64; 2], reach: f64) -> String {
        let rounded = |value: f64| format!("{value:.4e}").parse::<f64>().unwrap_or(value);
        let points =
            |line: &Line| line.iter().map(|point| [rounded(point.0), rounded(point.1)]).collect::<Vec<_>>();
        let series =
            self.series.iter().map(|series| json!({ "name": series.name, "points": points(&series.points) }));
        json!({
            "plot": plot,
            "x": x,
            "time": self.axis == Axis::Time,
            "load": matches!(self.axis, Axis::Load | Axis::Setting),
            "colours": COLOURS,
            "reach": match self.axis {
                Axis::Setting => 0.0,
                _ if reach.is_finite() => reach,
                _ => 1.0,
            },
            "series": series.collect::<Vec<_>>(),
        })
        .to_string()
    }

    /// Draws on `area` and returns the plot area in pixels: left, right, top, bottom.
    fn draw_on(
        &self,
        area: &DrawingArea<SVGBackend<'_>, Shift>,
        x: std::ops::Range<f64>,
        vertical: &Vertical,
        lines: &[&Line],
    ) -> Result<[i32; 4], Box<dyn std::error::Error>> {
        let text = TextStyle::from(("sans-serif", 13).into_font());
        let floor = vertical.from.max(0.0);
        let (top, length) = (vertical.to, x.end - x.start);
        let mut chart = ChartBuilder::on(area)
            .margin(4)
            .margin_right(14)
            .x_label_area_size(22)
            .y_label_area_size(46)
            .build_cartesian_2d(x, vertical.from..top)?;
        let whole = lines.iter().flat_map(|line| line.iter()).all(|point| point.0.fract() == 0.0);
        let name = |at: &f64| match self.axis {
            // There is no half gateway.
            Axis::Setting if whole && at.fract().abs() > 1e-6 => String::new(),
            Axis::Time => clock(*at, length),
            Axis::Percentile => percentile(*at),
            Axis::Load | Axis::Setting => short(*at),
        };
        chart
            .configure_mesh()
            .disable_x_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(MESH)
            .axis_style(MESH)
            .x_labels(if self.axis == Axis::Percentile { 7 } else { 6 })
            .y_labels(5)
            .x_label_formatter(&name)
            .y_label_formatter(&|value| vertical.figure(*value))
            .label_style(text)
            .draw()?;
        for at in &self.marks {
            chart.draw_series(LineSeries::new([(*at, floor), (*at, top)], MARK.stroke_width(1)))?;
        }
        let gap = longest_join(lines);
        for (index, (line, series)) in lines.iter().zip(&self.series).enumerate() {
            let colour = marker(index);
            if matches!(self.axis, Axis::Load | Axis::Setting) {
                chart.draw_series(line.iter().map(|point| Circle::new(*point, 4, colour.filled())))?;
            }
            if self.axis == Axis::Setting {
                chart.draw_series(LineSeries::new(line.iter().copied(), colour.stroke_width(2)))?;
            }
            if matches!(self.axis, Axis::Load | Axis::Setting) {
                continue;
            }
            for piece in pieces(line, gap) {
                if series.filled && floor == 0.0 {
                    let area = AreaSeries::new(piece.iter().copied(), floor, colour.mix(0.18));
                    chart.draw_series(area)?;
                }
                match piece {
                    [point] => {
                        chart.draw_series([Circle::new(*point, 2, colour.filled())])?;
                    }
                    _ => {
                        chart.draw_series(LineSeries::new(piece.iter().copied(), colour.stroke_width(2)))?;
                    }
                }
            }
        }
        let (across, down) = chart.plotting_area().get_pixel_range();
        Ok([across.start, across.end, down.start, down.end])
    }
}

/// The vertical axis.
#[derive(Debug, PartialEq)]
struct Vertical {
    from: f64,
    to: f64,
}

impl Vertical {
    /// Returns an axis that holds all values, with some room above them.
    fn of(values: impl Iterator<Item = f64> + Clone, base: Base) -> Self {
        let lowest = values.clone().fold(f64::INFINITY, f64::min);
        let highest = values.fold(0.0, f64::max);
        if base == Base::Near && lowest > highest / 2.0 {
            // Show a range of at least 1 % of the value, so that small differences do not fill the height.
            let range = (highest - lowest).max(highest / 100.0);
            let step = round_step(range / 4.0);
            let from = ((lowest - range * 0.05) / step).floor() * step;
            return Self { from, to: (highest + range * 0.08).max(from + range) };
        }
        let from = lowest.min(0.0);
        Self { from, to: if highest > from { from + (highest - from) * 1.08 } else { from + 1.0 } }
    }

    /// Formats a label with enough digits to distinguish neighbouring labels.
    fn figure(&self, value: f64) -> String {
        if self.from <= 0.0 {
            return short(value);
        }
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let digits = (-((self.to - self.from) / 5.0).log10()).ceil().clamp(0.0, 6.0) as usize;
        format!("{value:.digits$}")
    }
}

/// Returns the smallest step of 1, 2 or 5 times a power of ten that is at least `least`.
fn round_step(least: f64) -> f64 {
    let power = 10f64.powf(least.log10().floor());
    [1.0, 2.0, 5.0].into_iter().map(|times| times * power).find(|step| *step >= least).unwrap_or(power * 10.0)
}

fn marker(index: usize) -> RGBColor {
    RGBColor(u8::try_from(index % COLOURS).unwrap_or(0) + 1, 0, 0)
}

/// Returns the largest distance of points that are joined: three times the median distance.
fn longest_join(lines: &[&Line]) -> f64 {
    let mut steps: Vec<f64> =
        lines.iter().flat_map(|line| line.windows(2).map(|pair| pair[1].0 - pair[0].0)).collect();
    steps.sort_by(f64::total_cmp);
    steps.get(steps.len() / 2).map_or(f64::INFINITY, |step| step * 3.0 + 0.5)
}

fn pieces(line: &Line, gap: f64) -> impl Iterator<Item = &[(f64, f64)]> {
    line.chunk_by(move |a, b| b.0 - a.0 <= gap)
}

/// Formats a time of the run by the length of the run: `45s`, `3:20`, `2:05h`.
pub(super) fn clock(seconds: f64, length: f64) -> String {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let whole = seconds.max(0.0).round() as u64;
    match length {
        short if short < 120.0 => {
            if (seconds - seconds.round()).abs() > 0.01 {
                format!("{seconds:.1}s")
            } else {
                format!("{whole}s")
            }
        }
        hour if hour < 7_200.0 => format!("{}:{:02}", whole / 60, whole % 60),
        _ => format!("{}:{:02}h", whole / 3600, whole / 60 % 60),
    }
}

/// Returns the label of the percentile axis at a whole number of nines: `90%` at 1, `99%` at 2. Empty in between.
fn percentile(at: f64) -> String {
    let nines = at.round();
    if (at - nines).abs() > 0.01 {
        return String::new();
    }
    match nines {
        zero if zero < 0.5 => "0".to_owned(),
        one if one < 1.5 => "90%".to_owned(),
        two if two < 2.5 => "99%".to_owned(),
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        more => format!("99.{}%", "9".repeat(more as usize - 2)),
    }
}

/// Formats a figure in few characters: `12.3k`, `950`, `0.31`.
pub(super) fn short(value: f64) -> String {
    let trimmed = |text: String| {
        if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
    };
    match value.abs() {
        size if size >= 1e9 => format!("{}G", trimmed(format!("{:.1}", value / 1e9))),
        size if size >= 1e6 => format!("{}M", trimmed(format!("{:.1}", value / 1e6))),
        size if size >= 1e4 => format!("{}k", trimmed(format!("{:.1}", value / 1e3))),
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 1.0 => trimmed(format!("{value:.1}")),
        _ => trimmed(format!("{value:.3}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_of_the_axes() {
        for (seconds, length, text) in
            [(45.0, 60.0, "45s"), (0.5, 2.0, "0.5s"), (200.0, 600.0, "3:20"), (7_500.0, 9_000.0, "2:05h")]
        {
            assert_eq!(clock(seconds, length), text);
        }
        for (at, text) in [(0.0, "0"), (1.0, "90%"), (2.0, "99%"), (3.0, "99.9%"), (4.0, "99.99%"), (0.5, "")]
        {
            assert_eq!(percentile(at), text);
        }
        for (value, text) in
            [(0.0, "0"), (0.31, "0.31"), (7.5, "7.5"), (950.2, "950"), (12_340.0, "12.3k"), (2e6, "2M")]
        {
            assert_eq!(short(value), text);
        }
    }

    #[test]
    fn distant_points_are_not_joined() {
        let line = vec![(0.0, 1.0), (1.0, 1.0), (2.0, 1.0), (30.0, 1.0)];
        assert_eq!(pieces(&line, longest_join(&[&line])).count(), 2);
    }

    #[test]
    fn nothing_to_draw_is_no_chart() {
        let chart = |points| Chart {
            title: "a \"b\" <c>".into(),
            axis: Axis::Time,
            base: Base::Zero,
            series: vec![Series::filled("x", points)],
            marks: vec![1.0],
            until: 0.0,
        };
        assert!(chart(Line::new()).draw().is_none());
        let Drawing { svg, data, begins } = chart(vec![(0.0, 0.5)]).draw().unwrap();
        assert!(data.contains("\"points\":[[0.0,0.5]]"), "{data}");
        assert!(svg.contains("aria-label=\"a &quot;b&quot; &lt;c&gt;\""), "{svg}");
        assert_eq!(begins, None);
    }

    #[test]
    fn a_band_far_from_zero_has_an_axis_of_its_own() {
        let of = |values: &[f64], base| {
            let Vertical { from, to } = Vertical::of(values.iter().copied(), base);
            (from, (to * 1e3).round() / 1e3)
        };
        for (values, from, to) in [
            (&[899.0, 901.5, 912.0][..], 895.0, 913.04),
            (&[900.0], 895.0, 904.0),
            (&[0.5, 1.1], 0.0, 1.188),
            (&[900.0, 4_000.0], 0.0, 4_320.0),
            (&[0.0, 0.0], 0.0, 1.0),
            (&[-5.0, -4.0], -5.0, 0.4),
        ] {
            assert_eq!(of(values, Base::Near), (from, to), "{values:?}");
        }
        assert_eq!(of(&[899.0, 912.0], Base::Zero), (0.0, 984.96));
        for (least, step) in [(3.25, 5.0), (2.0, 2.0), (0.06, 0.1), (7_000.0, 10_000.0)] {
            assert!((round_step(least) / step - 1.0).abs() < 1e-9, "{least}");
        }
    }

    #[test]
    fn an_axis_of_whole_numbers_has_no_fractions() {
        let svg = |last| {
            let chart = Chart {
                title: "e2el over wsproxy".into(),
                axis: Axis::Setting,
                base: Base::Zero,
                series: vec![Series::line("p50", vec![(1.0, 100.0), (2.0, 100.0), (last, 100.0)])],
                marks: Vec::new(),
                until: f64::NEG_INFINITY,
            };
            chart.draw().unwrap().svg
        };
        assert!(svg(3.0).contains(">\n3\n<") && !svg(3.0).contains(">\n1.5\n<"), "{}", svg(3.0));
        assert!(svg(3.5).contains(">\n1.5\n<"), "{}", svg(3.5));
    }

    #[test]
    fn an_axis_that_does_not_start_at_zero_is_labelled_and_fills_nothing() {
        let chart = |base| Chart {
            title: "e2el".into(),
            axis: Axis::Time,
            base,
            series: vec![Series::filled("p50", vec![(0.0, 900.2), (1.0, 903.9)])],
            marks: Vec::new(),
            until: 0.0,
        };
        let near = chart(Base::Near).draw().unwrap();
        assert_eq!(near.begins.as_deref(), Some("895"));
        assert!(near.svg.contains(">\n900\n<") && !near.svg.contains("<polygon"), "{}", near.svg);
        let whole = chart(Base::Zero).draw().unwrap();
        assert!(whole.begins.is_none() && whole.svg.contains("<polygon"), "{}", whole.svg);
    }
}
