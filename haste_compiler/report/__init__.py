"""What a compiled network did with images: the evidence, by layer and by place, and a page that shows it."""
