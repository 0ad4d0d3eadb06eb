//! Plots, as SVG.

use std::path::Path;

use plotters::coord::ranged1d::SegmentValue;
use plotters::prelude::*;

/// Bars side by side for each category, in panels under each other.
pub struct Bars<'a> {
    /// Above all.
    pub title: &'a str,
    /// Of the axis.
    pub unit: &'a str,
    /// Names and, by series, by category, values.
    pub panels: Vec<Panel>,
}

/// One set of axes.
pub struct Panel {
    /// Above it.
    pub title: String,
    /// Below the bars.
    pub categories: Vec<String>,
    /// Name, colour, and a value for each category.
    pub series: Vec<Series>,
}

/// Bars of one colour, or points of one line.
pub struct Series {
    /// In the legend.
    pub name: String,
    /// Place in the palette: the same interface has the same colour in all plots.
    pub colour: usize,
    /// Where there is one.
    pub values: Vec<Option<f64>>,
}

type Drawn = Result<(), Box<dyn std::error::Error>>;

const COLOURS: [RGBColor; 14] = [
    RGBColor(70, 70, 70),
    RGBColor(0, 114, 178),
    RGBColor(86, 180, 233),
    RGBColor(0, 60, 120),
    RGBColor(0, 158, 115),
    RGBColor(240, 190, 40),
    RGBColor(213, 94, 0),
    RGBColor(230, 140, 60),
    RGBColor(160, 60, 30),
    RGBColor(204, 121, 167),
    RGBColor(120, 40, 120),
    RGBColor(150, 150, 150),
    RGBColor(190, 190, 190),
    RGBColor(110, 110, 110),
];

/// Draws into `path`.
pub fn bars(path: &Path, plot: &Bars) -> Drawn {
    let height = 60 + 300 * plot.panels.len() as u32;
    let root = SVGBackend::new(path, (900, height)).into_drawing_area();
    root.fill(&WHITE)?;
    let root = root.titled(plot.title, ("sans-serif", 20))?;
    for (area, panel) in root.split_evenly((plot.panels.len(), 1)).iter().zip(&plot.panels) {
        let values = panel.series.iter().flat_map(|series| series.values.iter().flatten());
        let highest = values.copied().fold(0.0, f64::max).max(1e-9) * 1.05;
        let mut chart = ChartBuilder::on(area)
            .caption(&panel.title, ("sans-serif", 15))
            .margin(8)
            .x_label_area_size(28)
            .y_label_area_size(56)
            .build_cartesian_2d((0..panel.categories.len()).into_segmented(), 0.0..highest)?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .light_line_style(TRANSPARENT)
            .y_desc(plot.unit)
            .x_label_formatter(&|place| match place {
                SegmentValue::CenterOf(at) => panel.categories.get(*at).cloned().unwrap_or_default(),
                _ => String::new(),
            })
            .draw()?;
        // Bars of a category share its width; segments have no fractions, so they are drawn in pixels.
        let count = panel.series.len().max(1) as f64;
        for (nth, series) in panel.series.iter().enumerate() {
            let colour = COLOURS[series.colour % COLOURS.len()];
            let mut shapes = Vec::new();
            for (at, value) in series.values.iter().enumerate() {
                let Some(value) = value else { continue };
                let (left, bottom) = chart.backend_coord(&(SegmentValue::Exact(at), 0.0));
                let (right, top) = chart.backend_coord(&(SegmentValue::Exact(at + 1), *value));
                let width = f64::from(right - left) * 0.84;
                let start = f64::from(left) + f64::from(right - left) * 0.08 + width * nth as f64 / count;
                let end = (start + width / count - 1.0).max(start + 1.0);
                shapes.push([(start as i32, top), (end as i32, bottom)]);
            }
            let origin = area.get_pixel_range();
            for [(left, top), (right, bottom)] in shapes {
                let shift = |(x, y): (i32, i32)| (x - origin.0.start, y - origin.1.start);
                area.draw(&Rectangle::new([shift((left, top)), shift((right, bottom))], colour.filled()))?;
            }
            chart
                .draw_series(std::iter::empty::<Rectangle<(SegmentValue<usize>, f64)>>())?
                .label(&series.name)
                .legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 12, y + 5)], colour.filled()));
        }
        legend(&mut chart, SeriesLabelPosition::UpperRight)?;
    }
    root.present()?;
    Ok(())
}

/// Lines through points; `x` are shared by all series.
pub fn lines(path: &Path, title: &str, axes: [&str; 2], x: &[f64], series: &[Series]) -> Drawn {
    let root = SVGBackend::new(path, (900, 420)).into_drawing_area();
    root.fill(&WHITE)?;
    let highest = series.iter().flat_map(|one| one.values.iter().flatten()).copied().fold(0.0, f64::max);
    let lowest = series.iter().flat_map(|one| one.values.iter().flatten()).copied().fold(0.0, f64::min);
    let right = x.iter().copied().fold(1.0, f64::max);
    let mut chart = ChartBuilder::on(&root)
        .caption(title, ("sans-serif", 20))
        .margin(8)
        .x_label_area_size(40)
        .y_label_area_size(64)
        .build_cartesian_2d(0.0..right, lowest * 1.05..highest.max(1e-9) * 1.3)?;
    chart.configure_mesh().light_line_style(TRANSPARENT).x_desc(axes[0]).y_desc(axes[1]).draw()?;
    for one in series {
        let colour = COLOURS[one.colour % COLOURS.len()];
        let points = x.iter().zip(&one.values).filter_map(|(x, y)| y.map(|y| (*x, y)));
        chart
            .draw_series(LineSeries::new(points.clone(), colour.stroke_width(2)))?
            .label(&one.name)
            .legend(move |(x, y)| Rectangle::new([(x, y - 2), (x + 12, y + 2)], colour.filled()));
        chart.draw_series(points.map(|point| Circle::new(point, 3, colour.filled())))?;
    }
    legend(&mut chart, SeriesLabelPosition::UpperLeft)?;
    root.present()?;
    Ok(())
}

fn legend<'a, X, Y>(
    chart: &mut ChartContext<'a, SVGBackend<'a>, Cartesian2d<X, Y>>,
    position: SeriesLabelPosition,
) -> Drawn
where
    X: Ranged,
    Y: Ranged,
{
    chart
        .configure_series_labels()
        .position(position)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.3))
        .draw()?;
    Ok(())
}
