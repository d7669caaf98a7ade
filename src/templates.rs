//! The templates of the pages. They are a part of the program, so that it needs no other files.

use tera::Tera;

use crate::json_highlight::json_highlight;

pub fn load() -> tera::TeraResult<Tera> {
    let mut templates = Tera::new();
    templates.register_filter("json_highlight", json_highlight);
    templates.add_raw_templates([
        ("layout.html", include_str!("../templates/layout.html")),
        ("public/index.html", include_str!("../templates/public/index.html")),
        ("authenticated/graph.html", include_str!("../templates/authenticated/graph.html")),
        ("authenticated/admin.html", include_str!("../templates/authenticated/admin.html")),
        ("error.html", include_str!("../templates/error.html")),
    ])?;
    Ok(templates)
}
