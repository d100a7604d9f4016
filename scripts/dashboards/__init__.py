"""The dashboards as code: `python -m scripts.dashboards` writes deploy/grafana/dashboards/. Standard library only."""
