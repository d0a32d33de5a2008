//! The report as a picture: for each figure a bar for ours and one for bare, each pair on a scale of its own.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::report::{Row, Side};

const WIDTH: i32 = 960;
const TOP: i32 = 56;
const PAIR: i32 = 62;
const BAR: i32 = 20;
/// Where bars begin and where the longest ends.
const BARS: (i32, i32) = (290, 700);
const INK: RGBColor = RGBColor(40, 44, 52);
const OURS: RGBColor = RGBColor(35, 110, 180);
const BARE: RGBColor = RGBColor(176, 182, 190);

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

/// Writes the picture.
pub fn draw(rows: &[Row], file: &Path) -> Result<()> {
    let height = TOP + PAIR * i32::try_from(rows.len())? + 16;
    let area = SVGBackend::new(file, (WIDTH.unsigned_abs(), height.unsigned_abs())).into_drawing_area();
    let drawn = draw_all(&area, rows).and_then(|()| Ok(area.present()?));
    drawn.map_err(|error| anyhow!("cannot draw {}: {error}", file.display()))
}

fn draw_all(area: &Area<'_>, rows: &[Row]) -> Result<(), Box<dyn std::error::Error>> {
    area.fill(&WHITE)?;
    write(area, "Shardlane beside the barest programs that do the same work", (16, 24), 18, HPos::Left)?;
    for (x, color, name) in [(620, OURS, "ours"), (700, BARE, "bare")] {
        area.draw(&Rectangle::new([(x, 17), (x + 14, 31)], color.filled()))?;
        write(area, name, (x + 20, 24), 14, HPos::Left)?;
    }
    write(area, "ours / bare", (WIDTH - 16, 24), 14, HPos::Right)?;
    for (row, number) in rows.iter().zip(0..) {
        draw_row(area, row, TOP + PAIR * number)?;
    }
    Ok(())
}

fn draw_row(area: &Area<'_>, row: &Row, top: i32) -> Result<(), Box<dyn std::error::Error>> {
    let sides = [(Some(&row.ours), OURS), (row.bare.as_ref(), BARE)];
    let longest = sides.iter().filter_map(|(side, _)| *side).map(median).fold(0., f64::max);
    let middle = top + BAR;
    write(area, &row.name, (16, middle - 9), 14, HPos::Left)?;
    write(area, &row.verdict(), (16, middle + 10), 12, HPos::Left)?;
    for ((side, color), y) in sides.into_iter().zip([top, top + BAR]) {
        let Some(side) = side else { continue };
        #[allow(clippy::cast_possible_truncation)]
        let end = BARS.0 + (f64::from(BARS.1 - BARS.0) * median(side) / longest).round() as i32;
        area.draw(&Rectangle::new([(BARS.0, y), (end, y + BAR - 2)], color.filled()))?;
        let value = format!("{} {}", row.unit.text(median(side)), row.unit.name());
        write(area, &value, (end + 8, y + BAR / 2), 13, HPos::Left)?;
    }
    let ratio = row.ratio().map(|ratio| format!("{ratio:.2}")).unwrap_or_default();
    write(area, &ratio, (WIDTH - 16, middle), 20, HPos::Right)
}

fn median(side: &Side) -> f64 {
    side.samples.median()
}

fn write(area: &Area<'_>, text: &str, at: (i32, i32), size: i32, side: HPos) -> Result<(), Box<dyn std::error::Error>> {
    let style = ("sans-serif", size).into_font().color(&INK).pos(Pos::new(side, VPos::Center));
    Ok(area.draw(&Text::new(text.to_owned(), at, style))?)
}
