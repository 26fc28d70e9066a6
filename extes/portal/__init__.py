"""The portal: Gradio pages over :class:`extes.study.conduct.Conduct`. The only place that imports gradio."""
