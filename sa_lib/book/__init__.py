"""The book: everything that makes a site of chapters. It needs the extra ``book``; a chapter never imports it."""
