"""Pictures of the dashboards, drawn with Grafana's own components from a real Prometheus; see __main__.py."""
