from app.navigation import run

run()
