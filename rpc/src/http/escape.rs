//! Text from elsewhere, made fit for a page. All names and addresses pass here, whoever chose them.

use std::fmt::{self, Display, Write as _};

/// Text for HTML, in and between tags.
pub(super) struct Html<T>(pub(super) T);

/// Text for the value of a label, between quotes.
pub(super) struct Label<T>(pub(super) T);

impl<T: Display> Display for Html<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for letter in self.0.to_string().chars() {
            match letter {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                // No character reference may name them, so they are shown as what they are.
                control if control.is_control() => write!(f, "{}", control.escape_default())?,
                letter => f.write_char(letter)?,
            }
        }
        Ok(())
    }
}

impl<T: Display> Display for Label<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for letter in self.0.to_string().chars() {
            match letter {
                '\\' => f.write_str("\\\\")?,
                '"' => f.write_str("\\\"")?,
                '\n' => f.write_str("\\n")?,
                letter => f.write_char(letter)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_breaks_out_of_html() {
        let text = Html("<a href=\"x\" on='y'>&\n\u{e9}").to_string();
        assert_eq!(
            text,
            "&lt;a href=&quot;x&quot; on=&#39;y&#39;&gt;&amp;\\n\u{e9}"
        );
    }

    #[test]
    fn nothing_breaks_out_of_a_label() {
        assert_eq!(Label("a\"b\\c\nd").to_string(), "a\\\"b\\\\c\\nd");
    }
}
