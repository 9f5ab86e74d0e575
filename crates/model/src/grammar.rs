//! Answers of a forced form: JSON schema, regular expression, Lark, GBNF.
