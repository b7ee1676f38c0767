"""The app's entry. Streamlit imports it once for the server, and runs it as a script for pages."""

if __name__ == "__main__":
    from app.navigation import run

    run()
else:
    from starlette.middleware import Middleware
    from streamlit.starlette import App

    from app import serving

    around = [Middleware(serving.NotFramed), Middleware(serving.OwnNames)]
    around += [Middleware(serving.NoMetrics), Middleware(serving.NoPath, __file__)]
    app = App(__file__, middleware=around, lifespan=serving.opened)
