//! Draws the live view: a pure function from a snapshot and an area to cells.
//! Made for 60 × 20 cells and more. Lines that do not fit are counted.

use super::{
    bars::{self, Cell, clock},
    snapshot::Snapshot,
};
use crate::{
    output::{LIVE_METRICS, LIVE_WINDOW_SECONDS},
    values::{marked, printable, short},
};
use measure::{
    CLOCK_ERROR_US, FaultRecord, FaultStatus, Hop,
    defects::Defects,
    threshold::{Outcome, State},
};
use ratatui::{
    buffer::Buffer,
    layout::{Constraint, Layout, Rect},
    style::{Color, Modifier, Style, Stylize},
    text::{Line, Span},
    widgets::{Paragraph, RenderDirection, Sparkline, Widget, Wrap},
};
use settings::plural::{counted, noun};
use std::time::Duration;

/// Width from which there are two columns.
const WIDE: u16 = 90;
const MIN: (u16, u16) = (40, 12);
/// Height from which there are two charts.
const TWO_CHARTS: u16 = 11;

/// Heading of the delivery: a query's tokens are judged at its end.
const TOKENS_OF: &str = "tokens of ended queries";
/// Width from which the heading fits beside the names of the figures.
const ROOM_FOR_HEADING: u16 = 76;

const HELP: [&str; 6] = [
    "q, Ctrl+C   stop: start nothing new, let streams end, write the results",
    "            again: stop at once; the results are written all the same",
    "?           show or hide this help",
    "",
    "Percentiles cover the last seconds. Delivery counts ended queries.",
    "Everything shown here is also in the results.",
];

/// Draws a snapshot into the buffer.
pub fn view(snapshot: &Snapshot, area: Rect, buffer: &mut Buffer) {
    if area.width < MIN.0 || area.height < MIN.1 {
        let text = format!("{} tokens/s\n(60 × 20 shows more)", whole(snapshot.rates.tokens));
        Paragraph::new(text).render(area, buffer);
        return;
    }
    let area = Rect { x: area.x + 1, width: area.width - 2, ..area };
    let parts = [Constraint::Length(3), Constraint::Min(0), Constraint::Length(1)];
    let [head, body, foot] = Layout::vertical(parts).areas(area);
    title(snapshot, head, buffer);
    if snapshot.shows_help {
        let lines: Vec<_> = HELP.iter().map(|&line| Line::from(line)).collect();
        Paragraph::new(lines).wrap(Wrap { trim: false }).render(body, buffer);
    } else if area.width >= WIDE {
        two_columns(snapshot, body, buffer);
    } else {
        one_column(snapshot, body, buffer);
    }
    foot_line(snapshot).render(foot, buffer);
}

fn title(snapshot: &Snapshot, area: Rect, buffer: &mut Buffer) {
    let [first, bar, phase] = Layout::vertical([Constraint::Length(1); 3]).areas(area);
    let elapsed = clock(snapshot.elapsed);
    let time = match snapshot.end {
        Some(end) => format!("{elapsed} of {}", clock(end)),
        None => format!("{elapsed} of about {}", clock(snapshot.estimate)),
    };
    Line::from(vec!["streamstress ".bold(), snapshot.target.as_str().into()]).render(first, buffer);
    Line::from(format!(" {time}").bold()).right_aligned().render(right_of(first, time.len() + 1), buffer);
    let total = snapshot.end.unwrap_or(snapshot.estimate).max(snapshot.elapsed);
    let cells = bars::schedule(&snapshot.phases, total, snapshot.elapsed, bar.width);
    Line::from(cells.into_iter().map(bar_cell).collect::<Vec<_>>()).render(bar, buffer);
    phase_line(snapshot).render(phase, buffer);
}

/// Returns the last `width` columns of a line.
fn right_of(area: Rect, width: usize) -> Rect {
    let width = u16::try_from(width).unwrap_or(u16::MAX).min(area.width);
    Rect { x: area.right() - width, width, ..area }
}

fn bar_cell(cell: Cell) -> Span<'static> {
    let color = match cell {
        Cell::Past => Color::Cyan,
        Cell::Present => Color::White,
        Cell::ToCome | Cell::Border => Color::DarkGray,
    };
    Span::styled(cell.symbol(), color)
}

fn phase_line(snapshot: &Snapshot) -> Line<'static> {
    if snapshot.is_stopping {
        return Line::from("stopping: waiting for running streams; press q again to stop at once".yellow());
    }
    let phases = &snapshot.phases;
    let Some(at) = bars::present(phases, snapshot.elapsed) else {
        return Line::from("the schedule is over: waiting for running streams");
    };
    let phase = &phases[at];
    let left = match phase.end {
        Some(end) => format!("{} left", clock(end.saturating_sub(snapshot.elapsed))),
        None => "until the last query".to_owned(),
    };
    let unit = if snapshot.is_open { "arrivals per second" } else { "sessions" };
    let target = if (phase.from - phase.target).abs() < 1e-9 {
        format!("{} {}", whole(phase.target), noun(phase.target, unit))
    } else {
        format!("{} to {} {unit}", whole(phase.from), whole(phase.target))
    };
    Line::from(format!("phase {} of {}, {}: {target}, {left}", at + 1, phases.len(), phase.name))
}

fn one_column(snapshot: &Snapshot, area: Rect, buffer: &mut Buffer) {
    let notes = notes(snapshot);
    let gap = u16::from(area.height > 20);
    let parts = [2, 5, 3].map(|height| height + gap);
    let others = parts.iter().sum::<u16>() + gap + rows(&notes);
    let [rates, latency, delivered] = parts.map(Constraint::Length);
    let chart = Constraint::Length(area.height.saturating_sub(others).max(3) + gap);
    let [rates, chart, latency, delivered, rest] =
        Layout::vertical([rates, chart, latency, delivered, Constraint::Min(0)]).areas(area);
    rates_lines(snapshot, rates, buffer);
    charts(snapshot, Rect { height: chart.height.saturating_sub(gap), ..chart }, buffer);
    latency_table(snapshot, latency, buffer);
    delivery(snapshot, delivered, buffer);
    if area.width >= ROOM_FOR_HEADING {
        let heading = Line::from(TOKENS_OF.dim()).right_aligned();
        heading.render(Rect { height: delivered.height.min(1), ..delivered }, buffer);
    }
    note_lines(notes, rest, buffer);
}

fn two_columns(snapshot: &Snapshot, area: Rect, buffer: &mut Buffer) {
    let notes = notes(snapshot);
    // Text comes before charts, except for the smallest height of the charts.
    let words = (5 + rows(&notes)).min(area.height.saturating_sub(TWO_CHARTS + 1)).max(8);
    let [words, drawn] =
        Layout::vertical([Constraint::Length(words), Constraint::Min(0)]).spacing(1).areas(area);
    let [left, right] = Layout::horizontal([Constraint::Percentage(50); 2]).spacing(2).areas(words);
    let [rates, latency] = Layout::vertical([Constraint::Length(3), Constraint::Min(0)]).areas(left);
    rates_lines(snapshot, rates, buffer);
    latency_table(snapshot, latency, buffer);
    let [delivered, rest] = Layout::vertical([Constraint::Length(5), Constraint::Min(0)]).areas(right);
    let [heading, delivered] = Layout::vertical([Constraint::Length(1), Constraint::Min(0)]).areas(delivered);
    Line::from(TOKENS_OF.dim()).render(heading, buffer);
    delivery(snapshot, delivered, buffer);
    note_lines(notes, rest, buffer);
    charts(snapshot, drawn, buffer);
}

fn rows(lines: &[Line<'_>]) -> u16 {
    u16::try_from(lines.len()).unwrap_or(u16::MAX)
}

fn rates_lines(snapshot: &Snapshot, area: Rect, buffer: &mut Buffer) {
    let rates = snapshot.rates;
    let figure = |value: f64, name: &'static str| [whole(value).bold(), Span::from(name)];
    let first = [
        figure(rates.tokens, " tokens/s   "),
        figure(rates.queries, " queries/s   "),
        figure(rates.connects, " connects/s"),
    ];
    let (open, planned) = (snapshot.sessions_open, snapshot.sessions_planned);
    let (done, all) = (snapshot.totals.queries, snapshot.queries_planned);
    let sessions =
        if planned == 0 { format!("sessions {open}") } else { format!("sessions {open} of {planned}") };
    let about = if snapshot.are_queries_estimated { "≈" } else { "" };
    let second = format!("{sessions}   queries {done} of {about}{all}");
    let lines = vec![Line::from_iter(first.into_iter().flatten()), Line::from(second)];
    Paragraph::new(lines).render(area, buffer);
}

/// Draws tokens per second and, if there is room, `ttft_ms` of the same seconds below.
fn charts(snapshot: &Snapshot, area: Rect, buffer: &mut Buffer) {
    let live_status = &snapshot.live_status;
    let tokens = live_status.tokens_by_second.iter().map(|&tokens| Some(tokens));
    let named = |seconds, most: u64| format!("tokens/s, last {seconds} s, peak {most}");
    if area.height < TWO_CHARTS {
        return chart(tokens, named, Color::Cyan, area, buffer);
    }
    let [above, below] = Layout::vertical([Constraint::Fill(1); 2]).spacing(1).areas(area);
    chart(tokens, named, Color::Cyan, above, buffer);
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let micros = |ms: f64| (ms * 1e3).round() as u64;
    let ttft = live_status.ttft_by_second.iter().map(|ms| ms.map(micros));
    let named = |seconds, most| {
        format!("ttft_ms p(95) per second, last {seconds} s, peak {}", short(most as f64 / 1e3))
    };
    chart(ttft, named, Color::Magenta, below, buffer);
}

/// Draws the last seconds from zero up, with a caption above.
fn chart(
    seconds: impl DoubleEndedIterator<Item = Option<u64>>,
    named: impl Fn(usize, u64) -> String,
    color: Color,
    area: Rect,
    buffer: &mut Buffer,
) {
    let [caption, drawn] = Layout::vertical([Constraint::Length(1), Constraint::Min(1)]).areas(area);
    let value_text: Vec<_> = seconds.rev().take(drawn.width.into()).collect();
    let most = value_text.iter().flatten().max().copied().unwrap_or(0);
    Line::from(named(value_text.len(), most).dim()).render(caption, buffer);
    Sparkline::default()
        .data(value_text)
        .direction(RenderDirection::RightToLeft)
        .style(color)
        .render(drawn, buffer);
}

fn latency_table(snapshot: &Snapshot, area: Rect, buffer: &mut Buffer) {
    let title =
        format!("{:<16}{:>9}{:>9}{:>9}", format!("ms, last {LIVE_WINDOW_SECONDS} s"), "p50", "p95", "p99");
    let mut lines = vec![Line::from(title.dim())];
    let live_status = &snapshot.live_status;
    for (index, (metric, figures)) in LIVE_METRICS.iter().zip(live_status.recent).enumerate() {
        let cell = |at: usize, ms: f64| marked(ms, !live_status.untrusted[index][at]);
        let cells = figures
            .map_or_else(Default::default, |[p50, p95, p99]| [cell(0, p50), cell(1, p95), cell(2, p99)]);
        let cells: String = cells.iter().map(|cell| format!("{cell:>9}")).collect();
        lines.push(Line::from(format!("{:<16}{cells}", metric.name_ms())));
    }
    Paragraph::new(lines).render(area, buffer);
}

fn delivery(snapshot: &Snapshot, area: Rect, buffer: &mut Buffer) {
    let (tokens, queries) = (&snapshot.live_status.tokens, &snapshot.live_status.queries);
    let cells = [
        ("expected", tokens.expected, false),
        ("received", tokens.received, false),
        ("lost", tokens.lost, true),
        ("duplicated", tokens.duplicated, true),
        ("reordered", tokens.reordered, true),
    ];
    let width = |name: &str, value: u64| name.len().max(value.to_string().len()) + 2;
    let title = |&(name, value, _): &(&'static str, u64, bool)| format!("{name:<0$}", width(name, value));
    let titles: String = cells.iter().map(title).collect();
    let values =
        cells.map(|(name, value, bad)| highlighted(format!("{value:<0$}", width(name, value)), value, bad));
    let failed = queries.total - queries.ok;
    let (attempts, ok) = (snapshot.live_status.reconnect_attempts, snapshot.live_status.reconnects);
    let dropped = snapshot.totals.dropped;
    let more = [
        highlighted(format!("failed {failed}"), failed, true),
        highlighted(format!("   reconnects {ok} of {attempts}"), 0, false),
        highlighted(format!("   dropped {dropped}"), dropped, true),
    ];
    let lines = vec![Line::from(titles.dim()), Line::from_iter(values), Line::from_iter(more)];
    Paragraph::new(lines).render(area, buffer);
}

/// Returns a span that is red if it counts something bad.
fn highlighted(text: String, count: u64, is_bad: bool) -> Span<'static> {
    let style = if is_bad && count > 0 {
        Style::new().fg(Color::Red).add_modifier(Modifier::BOLD)
    } else {
        Style::new()
    };
    Span::styled(text, style)
}

/// Returns the notes: last message, defects, thresholds that do not hold, faults, hops, failures, thresholds that hold.
fn notes(snapshot: &Snapshot) -> Vec<Line<'_>> {
    let mut lines = Vec::new();
    lines.extend(snapshot.message.iter().map(|text| Line::from(format!("! {}", printable(text)).yellow())));
    let (held, others): (Vec<_>, Vec<_>) =
        snapshot.live_status.thresholds.iter().partition(|outcome| outcome.state == State::Held);
    let unread = snapshot.events_dropped;
    if unread > 0 {
        lines.push(Line::from(counted(unread, "events dropped: the reader is too slow").yellow()));
    }
    lines.extend(defects(&snapshot.live_status.defects));
    lines.extend(others.into_iter().map(threshold));
    lines.extend(snapshot.faults.iter().map(fault));
    lines.extend(hops(&snapshot.live_status.hops));
    let failure = |(name, count): &(String, u64)| Line::from(format!("{count} × {name}").red());
    lines.extend(snapshot.live_status.failures.iter().map(failure));
    lines.extend(held.into_iter().map(threshold));
    lines
}

/// Returns a line with the mean time of tokens by hop, if the gateway reports it. A hop between two clocks has no time.
fn hops(means: &[Option<f64>; Hop::COUNT]) -> Option<Line<'static>> {
    means.iter().any(Option::is_some).then(|| {
        let time = |ms: &Option<f64>| ms.map_or_else(|| "?".to_owned(), short);
        let hops: Vec<_> =
            Hop::ALL.iter().zip(means).map(|(hop, ms)| format!("{} {}", hop.place(), time(ms))).collect();
        let error = CLOCK_ERROR_US as f64 / 1e3;
        Line::from(format!("avg ms: {}  ±{error}", hops.join(" · ")))
    })
}

/// Returns a line per defect, with the first example.
fn defects(defects: &Defects) -> impl Iterator<Item = Line<'static>> + '_ {
    defects.found().map(|(defect, count, example)| {
        let first = example.map(|frame| format!("  first: {frame}")).unwrap_or_default();
        let line = format!("{} {count}{first}", defect.name());
        if defect.is_judged() { Line::from(line.red()) } else { Line::from(line.yellow()) }
    })
}

fn note_lines(mut lines: Vec<Line<'_>>, area: Rect, buffer: &mut Buffer) {
    let room = usize::from(area.height);
    if lines.len() > room && room > 0 {
        let more = lines.len() - room + 1;
        lines.truncate(room - 1);
        lines.push(Line::from(format!("… and {more} more lines").dim()));
    }
    Paragraph::new(lines).render(area, buffer);
}

fn fault(fault: &FaultRecord) -> Line<'static> {
    let at = fault.at.as_secs_f64();
    let (state, color) = match &fault.status {
        FaultStatus::Planned => (format!("planned at {at} s"), Color::DarkGray),
        FaultStatus::Begun => (format!("started at {at} s"), Color::Yellow),
        FaultStatus::Failed(why) => (format!("failed: {}", printable(why)), Color::Red),
        FaultStatus::Injected(_) => {
            let recovery = |time: Duration| format!(", recovery {:.1} s", time.as_secs_f64());
            let recovered = fault.time_to_recover().map(recovery).unwrap_or_default();
            (format!("{}{recovered}", counted(fault.outages, "outages")), Color::Magenta)
        }
    };
    Line::from(format!("fault {}: {state}", fault.spec).fg(color))
}

fn threshold(outcome: &Outcome) -> Line<'static> {
    let (mark, color) = match outcome.state {
        State::Held => ("✓", Color::Green),
        State::Broken => ("✗", Color::Red),
        State::Unknown(_) | State::Undecided { .. } => ("?", Color::Yellow),
    };
    Line::from(vec![mark.fg(color), format!(" {}   {}", outcome.threshold, outcome.value_text()).into()])
}

fn foot_line(snapshot: &Snapshot) -> Line<'static> {
    let keys = if snapshot.shows_help { "q stop   ? back" } else { "q stop   ? help" };
    Line::from(keys.dim())
}

fn whole(value: f64) -> String {
    if value > 0.0 && value < 10.0 && value.fract() > 1e-9 {
        format!("{value:.1}")
    } else {
        format!("{value:.0}")
    }
}

#[cfg(test)]
mod tests;
